"""Findings about what leaves the machine, or could: weaker sandboxes, keys over plain HTTP.

Where programs that a model wrote run, and where keys go.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import scopes_of
from grape.compiler.rewards import walk
from grape.dsl import ast
from grape.dsl.findings import Finding

_HERE = ("localhost", "127.0.0.1", "::1")


def check_exposure(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Keys over plain HTTP (G720), programs without a sandbox (G722)."""
    for scope in scopes_of(graph):
        yield from _stage(scope.stage)


def _stage(stage: Stage) -> Iterator[Finding]:
    if stage.verb == "served" and stage.settings["api_key"] is not None:
        place = urlsplit(stage.settings["url"])
        if place.scheme == "http" and place.hostname not in _HERE:
            message = f"the key for {place.hostname} would travel unencrypted"
            yield Finding("G720", message, stage.span, hint="use an `https://` address")
    for node in walk(stage.reward) if stage.reward else ():
        if node.get("name") == "unit_tests" and node["params"]["sandbox"] == "process":
            message = "programs that a model wrote run here without a sandbox around them"
            hint = 'leave `sandbox = "process"` out where the system has user namespaces'
            yield Finding("G722", message, stage.span, hint=hint)
            return
