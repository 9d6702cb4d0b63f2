"""Joins compiler and store: a checked graph becomes a plan that knows what is already made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from grape.compiler.graph import Graph
from grape.compiler.keys import Files
from grape.compiler.plan import Plan
from grape.compiler.planning import documents_of, make_plan
from grape.runtime.errors import UsageError
from grape.runtime.runs import last_key_documents
from grape.runtime.store import Store


def root_of(project: Path) -> Path:
    """The folder that holds the store and the runs of a project."""
    return project / ".grape"


def prepare(graph: Graph, file: Path) -> Plan:
    """The plan of a pipeline in the project folder of its file, with the state of every stage.

    Raises UsageError when a file that the pipeline reads is not there.
    """
    project = file.resolve().parent
    root = root_of(project)
    store = Store(root / "store")

    def state_of(key: str) -> Literal["cached", "run", "resume"]:
        if store.has(key):
            return "cached"
        return "resume" if store.resumable(key) else "run"

    try:
        return make_plan(
            graph,
            project=project,
            file=str(file),
            state_of=state_of,
            previous=last_key_documents(root, graph.pipeline),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def key_documents(graph: Graph, file: Path) -> dict[str, dict[str, Any]]:
    """What the keys of the stages are made of: a run keeps it, so that the next plan can say what
    changed since."""
    project = file.resolve().parent
    return documents_of(graph, project, Files(root_of(project) / "digests.json"))
