"""`revise(model, scored, RUBRIC)`: a critic says what is wrong, and a model answers again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from grape.compiler.combine import Combine
from grape.compiler.types import SERVER, ArtifactType
from grape.compiler.verb import Duration, Port, Settings, Verb

Count = Annotated[int, Field(ge=1)]
TEMPLATE = "{prompt}{completion}\n\nWhat is wrong with this answer:\n{critique}\n\n{prompt}"
"""Ends as the task does, so that what follows is an answer of the same form."""


class ReviseSettings(Settings):
    gives: Literal["revisions", "pairs", "group"] = "revisions"
    """What comes out: the revisions alone; preferences of revisions over what they revise; or the
    rollouts with their revisions in the same groups."""
    below: float = 0.5
    """A completion is criticised for each of its items that scores less than this."""
    verified: Literal["critic", "plain", "none"] = "critic"
    """Who criticises a verified item: the first critic of its category, or of the rubric where the
    category asks none; a sentence without a model, as for a rubric without a critic; or nobody."""
    tries: Count = 1
    """Revisions of each criticised completion."""
    only_better: bool = False
    """Leave out revisions that score no more than what they revise; pairs never hold those."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """`pairs` and `only_better`: how much more a revision must score."""
    template: str = TEMPLATE
    """What the model is given: `{prompt}`, `{completion}`, `{critique}` and columns of the data."""
    critique_tokens: Count = 64
    """Longest critique of one item by a model of the pipeline; a served one has its own."""
    max_tokens: Count | None = None
    """Longest revision in tokens; none: as the rollouts were sampled."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """Of the revisions; none: as the rollouts were sampled."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of the revisions; none: as the rollouts were sampled."""
    rows: Count = 64
    """Completions decoded side by side; changes time and memory only."""
    on_error: Literal["stop"] | float = "stop"
    """When a critic fails: the run stops and shows it; with a number the critique is left out, and
    an item of a revision that cannot be judged scores that."""
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """Longest time for a verified item of one completion."""
    retries: Annotated[int, Field(ge=0)] = 0
    """Times that a failing verified item is asked again before `on_error` holds."""
    calls_per_minute: Count | None = None
    """Most completions whose verified items are computed in a minute; none: as fast as it goes."""
    combine: Combine | None = None
    """How the items become one number, for rollouts and revisions together; none: as they were
    scored."""
    seed: int = 0
    """Of every token of critiques and revisions."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    before, model = inputs["rollouts"], inputs["model"]
    served = model.served and model.engine != SERVER
    if settings["gives"] == "pairs":
        return ArtifactType("Preferences")
    if settings["gives"] == "group":
        return replace(before, adds=before.adds | {"revised"}, served=before.served or served)
    kept = before.adds & {"greedy_reward"}
    engine = model.engine if model.served else "transformers"
    return replace(before, adds=kept | {"revised"}, served=served, engine=engine)


VERB = Verb(
    "revise",
    "stage",
    ReviseSettings,
    _type,
    "1",
    ports=(Port("model", "Model", served=True), Port("rollouts", "scored Rollouts")),
    reward=True,
)
