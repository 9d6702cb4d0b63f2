"""What `grape plan --format json` prints, as models: the published schema is made from them."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grape.compiler.plan import Change, Class, Plan, PlannedStage, Ref


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Span(_Part):
    """A number that is not known exactly."""

    low: int
    expected: int
    high: int


class Term(_Part):
    """One line of the memory of a stage."""

    name: str
    phase: str
    """`all the time`, or the phase in which it is there; of the phases the largest counts."""
    formula: str
    bytes: Span


class Measurement(_Part):
    seconds: float
    peak_bytes: int | None


class EstimateDocument(_Part):
    """What is known before a run; a field is absent where nothing is known."""

    prompts: int | None = None
    """Prompts that are drawn, each time."""
    completions: int | None = None
    max_new_tokens: int | None = None
    sequences: int | None = None
    """Sequences that a training learns from, each time."""
    updates: int | None = None
    """Optimizer steps; of a repeat those of all rounds."""
    rounds: int | None = None
    parameters: int | None = None
    """Parameters of the model that the stage works with."""
    memory: Span | None = None
    """Peak memory of the stage's process in bytes."""
    memory_lines: list[Term] = []
    tokens: Span | None = None
    """Tokens that go through a model."""
    flops: Span | None = None
    """Floating-point operations."""
    bytes_moved: int | None = None
    """Bytes of models read from the store and written to it."""
    seconds: float | None = None
    """Expected time, from what earlier runs measured."""
    measured: Measurement | None = None
    """The last time that a stage of this name was made."""
    notes: list[str] = []


class Algorithm(_Part):
    name: str
    params: dict[str, Any]


class StageDocument(_Part):
    name: str
    verb: str
    type: str
    state: Literal["cached", "run", "resume", "skipped"]
    """`skipped`: the branch of an `if` that it stands in is not taken."""
    reason: str
    change: Class
    """The kind of change since the last run: `new`, `none`, `neutral` (changes no result),
    `resumable` (goes on from what is there), `downstream` (only inputs changed), `breaking`."""
    differs: list[Change]
    """The fields that differ from the last run."""
    upstream: list[str]
    """The inputs that are not what they were."""
    key: str
    """Equal keys, equal artifacts; empty inside a repeat."""
    settings: dict[str, Any]
    """Every setting, defaults included."""
    set_by: dict[str, Literal["file", "default"]]
    """Which layer set each setting."""
    estimate: EstimateDocument
    inputs: dict[str, Ref]
    algorithm: Algorithm | None = None
    layers: dict[str, str] = {}
    """Settings that come from the environment, `env("NAME")` or `secret("NAME")`, by name."""
    every: int | None = None
    """In a repeat: made only every so many rounds."""
    until: list[str] = []
    """Of a repeat: what ends it early."""
    body: list[StageDocument] = []


class DeviceDocument(_Part):
    kind: Literal["cpu", "cuda"]
    memory: int | None
    """Bytes."""
    name: str
    count: int | None = None
    """GPUs alike, or cores."""


class PlanDocument(_Part):
    """A plan, for programs."""

    format: Literal[1] = 1
    """Grows when a field changes its meaning or goes."""
    edition: int
    pipeline: str
    file: str
    params: dict[str, Any]
    layers: dict[str, str]
    """Which layer set each parameter."""
    device: DeviceDocument | None
    stages: list[StageDocument]
    """In an order in which inputs come first; those of branches not taken last."""
    checks: list[str]
    outputs: list[str]
    versions: dict[str, str]
    findings: list[dict[str, Any]] = Field(default=[])
    """What does not fit, as `grape lint --format json` prints findings."""


def document(plan: Plan, findings: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The plan as `grape plan --format json` prints it."""
    made = PlanDocument(
        edition=plan.edition,
        pipeline=plan.pipeline,
        file=plan.file,
        params=plan.params,
        layers=plan.layers,
        device=DeviceDocument.model_validate(plan.device) if plan.device else None,
        stages=[_stage(stage) for stage in (*plan.stages, *plan.skipped)],
        checks=[check.text for check in plan.checks],
        outputs=[output.path for output in plan.outputs],
        versions=plan.versions,
        findings=findings or [],
    )
    return made.model_dump(mode="json", exclude_defaults=False, exclude_none=False) | {
        "stages": [_slim(stage) for stage in made.stages]
    }


def _stage(stage: PlannedStage) -> StageDocument:
    algorithm = None
    if stage.formula is not None:
        params = dict(stage.formula["params"])
        algorithm = Algorithm(name=stage.formula["name"], params=params)
    return StageDocument(
        name=stage.name,
        verb=stage.verb,
        type=stage.type,
        state=stage.state,
        reason=stage.reason,
        change=stage.change,
        differs=list(stage.differs),
        upstream=list(stage.upstream),
        key=stage.key,
        settings=stage.settings,
        set_by={name: "file" if name in stage.given else "default" for name in stage.settings},
        estimate=EstimateDocument.model_validate(stage.estimate),
        inputs=stage.inputs,
        algorithm=algorithm,
        layers=stage.layers,
        every=stage.every,
        until=[until.text for until in stage.until],
        body=[_stage(inner) for inner in stage.body],
    )


def _slim(stage: StageDocument) -> dict[str, Any]:
    """Without what nobody knows: absent fields of an estimate, no algorithm, no body."""
    row = stage.model_dump(mode="json")
    row["estimate"] = stage.estimate.model_dump(mode="json", exclude_unset=True)
    for name in ("algorithm", "layers", "every", "until", "body"):
        if not row[name]:
            del row[name]
    if stage.body:
        row["body"] = [_slim(inner) for inner in stage.body]
    return row


def schema() -> str:
    """The JSON schema of the document, as `docs/plan.schema.json` holds it."""
    made = PlanDocument.model_json_schema()
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"
