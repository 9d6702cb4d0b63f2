"""`pretrained("SOURCE")`: loads a model that exists. It does not train it."""

from __future__ import annotations

from grape.runtime.context import Context
from grape.runtime.core.models import Policy
from grape.runtime.core.sources import pretrained, reward_model
from grape.runtime.secrets import reveal


def run(context: Context, inputs: dict[str, object]) -> Policy:
    """The model of the stage's `source`, with its score head where that is asked for. Raises
    StageError when there is none."""
    settings = context.stage.settings
    load = pretrained if settings.get("head") is None else reward_model
    return load(
        settings["source"],
        project=context.project,
        dtype=settings["dtype"],
        trust_remote_code=settings["trust_remote_code"],
        token=reveal(settings["token"]),
    )
