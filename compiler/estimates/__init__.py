"""Closed-form estimates of memory, tokens and work, from headers and first rows, before a run.

In come the typed graph and files; out go numbers with the formula that gave each. No weight is
read, and no library that computes with tensors is loaded.
"""
