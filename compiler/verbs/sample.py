"""`sample(model, prompts)`: completions of prompts, with the log-probability of every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from grape.compiler.tools import Turns
from grape.compiler.types import SERVER, ArtifactType
from grape.compiler.verb import Port, Settings, Size, Verb

Count = Annotated[int, Field(ge=1)]


class Tree(Settings):
    """`sampler = tree(…)`: completions that branch off each other, with nodes of shared tokens."""

    kind: Literal["tree"] = "tree"
    """Which sampler."""
    roots: Count = 2
    """Trees of each prompt: completions that begin at the prompt."""
    rounds: Count = 1
    """Times that every tree branches."""
    expand: Count = 2
    """Places at which a tree branches in a round."""
    width: Count = 1
    """Completions that branch off at a place."""
    branch: Literal["random", "entropy"] = "random"
    """Where: at any token, or at the tokens that were the least likely."""

    @property
    def leaves(self) -> int:
        """Completions of each prompt."""
        return self.roots * (1 + self.rounds * self.expand * self.width)


class Vine(Settings):
    """`sampler = vine(…)`: many continuations of the same states, compared in sets."""

    kind: Literal["vine"] = "vine"
    """Which sampler."""
    roots: Count = 1
    """Rollouts of each prompt whose states are gone on from; they are not learned from."""
    states: Count = 2
    """Places in each of them."""
    width: Count = 8
    """Continuations of a place: a group."""
    set_size: Count = 4
    """Continuations of a place that are judged together, as a set."""
    branch: Literal["random", "entropy"] = "random"
    """Which places: any, or the tokens that were the least likely."""

    @property
    def leaves(self) -> int:
        """Completions of each prompt."""
        return self.roots * self.states * self.width


class Probe(Settings):
    """`sampler = probe(…)`: failed completions go on after a hint that is put behind them."""

    kind: Literal["probe"] = "probe"
    """Which sampler."""
    hints: Annotated[list[str], Field(min_length=1)]
    """Texts, one of which is put behind a failed completion; each as likely as the others."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the failed completions that are gone on with."""
    success: float = 1.0
    """A completion with less reward has failed."""


class Prefixes(Settings):
    """`sampler = prefixes(…)`: completions that go on from nodes of trees that were sampled."""

    kind: Literal["prefixes"] = "prefixes"
    """Which sampler."""
    count: Count = 8
    """Nodes of each prompt that are gone on from; the prompt itself is one of its nodes."""
    width: Count = 1
    """Completions of each node."""
    value: Literal["mean", "max", "min"] = "mean"
    """What a node is worth: the mean, best or worst reward of the leaves below it."""


class Module(Settings):
    """`sampler = module(…)`: the next call of a program, on what the call before it answered."""

    kind: Literal["module"] = "module"
    """Which sampler."""
    prompt: str
    """Template of the call's prompt: `{prompt}` and `{completion}` of the call before, and columns
    of the data."""


Share = Annotated[float, Field(ge=0, le=1)]


class ByColumn(Settings):
    """`curriculum = by_column(…)`: the first prompts by a column, more and more of them."""

    kind: Literal["by_column"] = "by_column"
    """Which curriculum."""
    name: str
    """A column of numbers, such as a difficulty."""
    start: Share = 0.25
    """Share of the prompts that the first round draws from; the last one draws from all."""
    descending: bool = False
    """Whether the largest come first."""


class ByRate(Settings):
    """`curriculum = by_rate(…)`: prompts that the model gets right now and then."""

    kind: Literal["by_rate"] = "by_rate"
    """Which curriculum."""
    between: Annotated[list[Share], Field(min_length=2, max_length=2)] = Field(default=[0.2, 0.8])
    """Success rates that are wanted; prompts that were never tried are, too."""
    success: float = 1.0
    """A completion with at least this reward has succeeded."""
    decay: Annotated[float, Field(ge=0, le=1)] = 0.5
    """What an earlier measurement of a prompt keeps of its weight when it is measured again."""
    explore: Share = 0.1
    """Share of each draw that is of the other prompts, so that they are measured again."""
    least: Count | None = None
    """Completions that every prompt gets; the rest of prompts × group go where the rate is known
    least. None: `group` for each."""


class SampleSettings(Settings):
    max_tokens: Annotated[int, Field(ge=1)]
    """Longest completion in tokens."""
    prompts: Annotated[int, Field(ge=1)] | None = None
    """Prompts drawn each time; none: all of them."""
    group: Annotated[int, Field(ge=1)] = 8
    """Completions of each prompt."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Scale of the randomness; 1 samples from the model itself, 0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the likeliest tokens that hold this share of the probability."""
    stop: list[str] = Field(default=[])
    """Texts that end a completion."""
    sampler: Tree | Vine | Turns | Probe | Prefixes | Module | None = None
    """How the completions of a prompt come about; none: each by itself, in one turn."""
    curriculum: ByColumn | ByRate | None = None
    """Which prompts are drawn in a round; none: all of them in turn, in passes."""
    greedy: bool = False
    """One more completion of each prompt, the likeliest one: its reward is `greedy_reward`."""
    rows: Annotated[int, Field(ge=1)] = 64
    """Completions decoded side by side; changes time and memory only."""
    compact: bool = True
    """Finished completions make room for the next prompts at once; off only to compare."""
    own_layers: bool = True
    """Run layers of known families as Grape writes them; off only to compare."""
    keep_activations: Annotated[Size, Field(ge=0)] = 1 << 30
    """In a repeat: most memory for what the layers compute while decoding, which spares a step
    that learns from it at once its forward pass; 0: none is kept."""
    pack_weights: Annotated[Size, Field(ge=0)] = 4 << 30
    """Most memory for a copy of weights, layer by layer, in the order in which a processor reads
    them while decoding; 0: none is made."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes that share the prompts, each with the whole model; changes time and memory only."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model: Grape's own decode loop, or vLLM in the same process."""
    engine_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the device's memory that vLLM takes, for weights of its own and its cache."""
    seed: int = 0
    """Of the choice of prompts and of every token."""


_ADDS = {
    "tree": {"tree", "step", "node_value", "parent_value", "leaves"},
    "vine": {"set", "step", "diversity"},
    "turns": {"step"},
    "probe": {"probe", "proposal_logp"},
    "prefixes": {"prefix_value"},
    "module": {"module"},
}
"""By sampler: the quantities and levels that it brings to formulas."""
FOLLOWING = ("probe", "prefixes", "module")
"""Samplers that go on from rollouts instead of prompts."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    columns = inputs["prompts"].columns & {"prompt", "answer", "environment"}
    adds = frozenset({"greedy_reward"} if settings["greedy"] else ())
    if settings["sampler"]:
        adds |= _ADDS[settings["sampler"]["kind"]]
    model = inputs["model"]
    engine = model.engine if model.served else settings["engine"]
    text = model.served and engine != SERVER
    return ArtifactType(
        "Rollouts",
        columns=columns,
        served=text,
        adds=adds,
        engine=engine,
        group=settings["group"],
    )


VERB = Verb(
    "sample",
    "stage",
    SampleSettings,
    _type,
    "2",
    ports=(Port("model", "Model", served=True), Port("prompts", "Prompts or Rollouts")),
)
