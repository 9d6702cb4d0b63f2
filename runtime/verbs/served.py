"""`served("http://…")`: notes where a model is served. Nothing is asked before it is used."""

from __future__ import annotations

from grape.runtime.context import Context
from grape.runtime.critics.server import Served


def run(context: Context, inputs: dict[str, object]) -> Served:
    """The address and the limits of the server."""
    return Served(**context.stage.settings)
