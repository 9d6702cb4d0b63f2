"""The plan: the only thing that the compiler hands to the runtime.

Plain JSON: nothing in it refers back to syntax, and a worker needs no parser to run it. Every
setting is written out with its default; every stage has its content key.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(_Record):
    """An edge: the artifact of a stage, or one view of it (`train` or `test` of split data)."""

    stage: str
    view: str | None = None


Class = Literal["new", "none", "neutral", "resumable", "downstream", "breaking"]


class Change(_Record):
    """One field in which a stage differs from the last run."""

    field: str
    """Dotted path in what the key is made of: `settings.lr`, `reward.params.extract`, …"""
    of: str | None = None
    """The stage of a repeat's body that has the field."""
    old: Any = None
    new: Any = None


class Shared(Protocol):
    """What may be made by several processes."""

    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def body(self) -> tuple[Shared, ...]: ...


def processes_of(stage: Shared) -> int:
    """How many processes make a stage; a repeat has as many as the one in it with the most."""
    inside = max((processes_of(inner) for inner in stage.body), default=1)
    return max(inside, int(stage.settings.get("processes", 1)))


class PlannedStage(_Record):
    """One node of the graph, ready to run."""

    name: str
    """Unique in the pipeline; the stages of a repeat are unique in their body."""
    verb: str
    """A model source (`pretrained`, `fresh`), a data source (`jsonl`, `parquet`, `csv`,
    `environment`), a verb (`train`, `sample`, …) or `repeat`."""
    type: str
    """What it makes: Model, Data, Demos, Rollouts, Preferences, Ratings, Report or Files."""
    inputs: dict[str, Ref]
    settings: dict[str, Any]
    given: tuple[str, ...] = ()
    """The settings that the file sets; the others are defaults."""
    formula: dict[str, Any] | None = None
    """`train`: the algorithm (`compiler.formula.ir`); `keep`: the expression of `where`."""
    reward: dict[str, Any] | None = None
    """`score`, `evaluate`: a reward expression, see `compiler.rewards`."""
    key: str = ""
    """Content key: equal keys, equal artifacts. Empty inside a repeat, which has one key."""
    state: Literal["cached", "run", "resume", "skipped"] = "run"
    """`skipped`: the branch of an `if` that it stands in is not taken; only in `Plan.skipped`."""
    reason: str = ""
    change: Class = "new"
    """What kind of change it is since the last run: nothing, one that changes no result, one that
    goes on from what is there, one of its inputs only, or one of its own."""
    differs: tuple[Change, ...] = ()
    """The fields in which it differs, the first one first."""
    upstream: tuple[str, ...] = ()
    """The inputs that are not what they were."""
    files: dict[str, str] = {}
    """Digests of the files that it reads, by path."""
    family: str = ""
    """`repeat` that can go on from a shorter one: its key but for the number of rounds."""
    done: int = 0
    """`repeat`: the rounds that a shorter run has made and that are not made again."""
    estimate: dict[str, Any] = {}
    doc: str | None = None
    file: str = ""
    line: int = 0
    body: tuple[PlannedStage, ...] = ()
    """`repeat`: its stages in order. The name of the carried model is the name of the repeat; in
    the body a Ref to that name is the current model, and `next` names the stage that replaces
    it."""
    next: str | None = None
    layers: dict[str, str] = {}
    """Settings that come from the environment: `env("NAME")` or `secret("NAME")` by name."""
    every: int | None = None
    """In a repeat: made only every so many rounds, after `next`."""
    until: tuple[PlannedUntil, ...] = ()
    """`repeat`: what ends it early, asked after each round."""

    @property
    def processes(self) -> int:
        """How many processes make it."""
        return processes_of(self)


class PlannedUntil(_Record):
    """`until EXPR`: an expression as of a check, over what the round made."""

    text: str
    test: dict[str, Any]


class PlannedCheck(_Record):
    """`check EXPR [with confidence]`: an expression over reports, see `compiler.checks`."""

    text: str
    test: dict[str, Any]
    confidence: float | None
    file: str
    line: int
    doc: str | None = None


class PlannedOutput(_Record):
    """`output N as "PATH"`, the path relative to the project folder."""

    ref: Ref
    path: str


class Plan(_Record):
    """A whole run of one pipeline."""

    edition: int
    pipeline: str
    file: str
    project: str
    """The project folder: the folder of the pipeline file. Relative paths start there."""
    params: dict[str, Any]
    stages: tuple[PlannedStage, ...]
    """In an order in which inputs come first."""
    checks: tuple[PlannedCheck, ...] = ()
    outputs: tuple[PlannedOutput, ...] = ()
    versions: dict[str, str] = {}
    device: dict[str, Any] = {}
    """What the estimates are for: `kind`, `memory` in bytes, `name`."""
    documents: dict[str, Any] = {}
    """By stage: what its key is a digest of."""
    layers: dict[str, str] = {}
    """Parameter to the layer that set it."""
    doc: str | None = None
    skipped: tuple[PlannedStage, ...] = ()
    """Stages of branches that are not taken; one inside a repeat is named `REPEAT.STAGE`."""
    left_out: tuple[str, ...] = ()
    """Checks and outputs of such branches, with the reason."""

    def stage(self, name: str) -> PlannedStage:
        """The stage of that name; KeyError when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)
