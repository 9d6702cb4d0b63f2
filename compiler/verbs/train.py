"""`train(model, data)`: optimizer steps on the objective of an algorithm."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from grape.compiler.verb import Duration, Port, Settings, Verb, makes

Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Lora(Settings):
    """`adapter = lora(…)`: train low-rank matrices beside frozen weights (Hu et al., 2021)."""

    kind: Literal["lora"] = "lora"
    """Which adapter."""
    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the two matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the update is multiplied by `alpha / rank`."""
    targets: str | list[str] = "all-linear"
    """Which layers: `all-linear`, or a list of module names."""
    dropout: Beta = 0.0
    """Share of the adapter's inputs dropped in training."""


class TrainSettings(Settings):
    lr: Annotated[float, Field(ge=0)] = 1e-5
    """Peak learning rate."""
    head_lr: Annotated[float, Field(ge=0)] | None = None
    """Peak learning rate of a value or score head, which begins at zero; none: `lr`."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the data."""
    sequences_per_update: Annotated[int, Field(ge=1)] | None = None
    """Sequences of one optimizer step; none: 16 of data, the whole batch of rollouts."""
    updates: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many optimizer steps."""
    warmup: Fraction = 0.0
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = Field(default=[0.9, 0.999])
    """Decay rates of the two moments of AdamW."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the whole gradient; none: not clipped."""
    solver: Literal["natural_gradient", "penalty"] = "natural_gradient"
    """How an algorithm with `subject to` steps: by the natural gradient and a line search, which
    take no learning rate, or by ordinary steps with a penalty and further ones on the bound."""
    damping: Annotated[float, Field(ge=0)] = 0.1
    """Natural gradient: added to the curvature's diagonal, so that flat directions stay short."""
    cg_iterations: Annotated[int, Field(ge=1)] = 10
    """Natural gradient: steps of the conjugate gradient that finds the direction."""
    backtracks: Annotated[int, Field(ge=0)] = 10
    """Natural gradient: times that a step is shortened to 80 % before it is given up."""
    penalty: Annotated[float, Field(ge=0)] = 1.0
    """Penalty: first weight of the constraints in the loss; 0 where the formula has its own."""
    fixups: Annotated[int, Field(ge=1)] = 100
    """Penalty: most steps on the constraints alone, after the updates of a batch."""
    adapter: Lora | None = None
    """`lora(…)` trains an adapter; none trains every weight."""
    micro_tokens: Annotated[int, Field(ge=1)] = 4096
    """Tokens sent through the model at once; changes memory, never the result."""
    share_prompts: bool = True
    """Run a prompt that completions share once; off only to compare, like the next four."""
    packed: bool = True
    """Rows without padding, each token seeing its own completion and prompt only."""
    fused_head: bool = True
    """Form log-probs and the head's gradient in chunks, without a table of all logits."""
    skip_idle: bool = True
    """Leave out sequences that the formula provably does not touch, such as those of a group with
    equal rewards."""
    own_layers: bool = True
    """Run layers of known families as Grape writes them; off only to compare."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes that share the sequences of an update, each with the whole model; changes time and
    memory only."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with a sequence longer than `max_length`."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Longest sequence in tokens; none: the context of the model."""
    checkpoint: Annotated[Duration, Field(gt=0)] = 300.0
    """How often the state is saved."""
    ratio_tolerance: Annotated[float, Field(gt=0)] = 0.1
    """Most that log-probabilities may differ from the sampled ones before the first update."""
    engine_tolerance: Annotated[float, Field(gt=0)] = 0.05
    """The same where another engine sampled: warn above it. Such an engine rounds otherwise."""
    patience: Annotated[int, Field(ge=1)] = 5
    """Updates in a row that must look wrong before a warning says so."""
    max_truncated: Fraction = 0.95
    """Warn when more of the completions than this are cut by `max_tokens`."""
    min_entropy: Annotated[float, Field(ge=0)] = 0.01
    """Warn when samples have less entropy than this, in nats a token."""
    max_kl: Annotated[float, Field(gt=0)] = 5.0
    """Warn when the model is further than this from its reference, in nats a token."""
    optimizer: Literal["adamw"] = "adamw"
    """The update rule."""
    seed: int = 0
    """Of the order of the data and of an adapter's first weights."""


VERB = Verb(
    "train",
    "stage",
    TrainSettings,
    makes("Model"),
    "2",
    ports=(
        Port("model", "Model"),
        Port("data", "Training data"),
        Port("reference", "Model", optional=True, named=True),
        Port("teacher", "Model", optional=True, named=True),
    ),
    special=frozenset({"algorithm"}),
    required=frozenset({"algorithm"}),
)
