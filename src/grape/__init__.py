"""Grape: a declarative language for post-training language models.

`grape.load(path)` parses and checks a pipeline file; `grape.algorithm(name, …)` gives one
algorithm of the standard library as a function of tensors. Importing this module loads neither
torch nor prefect.
"""

__version__ = "0.1.0"
