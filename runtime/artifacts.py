"""Artifacts: what flows along the edges of the graph, in memory and in a folder.

Every artifact knows how to save itself into an empty folder and how to load itself from one.
Text artifacts are JSON lines, so that a user can read them with any tool; models are Hugging Face
folders. Nothing is pickled. No torch here: `runtime.core.models` holds the model artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

HEADS = "heads.safetensors"
"""Beside the weights of a model in the store: its value and score heads. Never published."""

MARK = "grape.json"
"""Its presence tells that Grape published a folder and may replace it."""


class Artifact(Protocol):
    """Anything that a stage makes."""

    kind: ClassVar[str]

    def save(self, folder: Path) -> None: ...


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


@dataclass(slots=True)
class Item:
    """One row of data after its templates: what a prompt, a demonstration or a pair is made of."""

    id: str
    """Digest of the row's content, stable under reordering."""
    prompt: str | None = None
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    messages: list[dict[str, Any]] | None = None
    desirable: bool | None = None
    answer: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    """The row as it was read: what rewards and environments look at."""


@dataclass(slots=True)
class Place(Item):
    """A prompt that is tokens already, such as a prompt with the beginning of a completion."""

    ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Data:
    """Items, each in view `train` or `test` (all in `train` when the data is not split)."""

    kind: ClassVar[str] = "Data"
    items: list[Item]
    views: dict[str, list[int]]
    """View name to indexes into `items`, in the order of use."""
    environment: dict[str, Any] | None = None
    """For `environment(…)`: its source name and settings, from which a worker rebuilds it."""

    def view(self, name: str | None) -> list[Item]:
        """The items of a view; all items when `name` is None."""
        if name is None:
            return self.items
        return [self.items[index] for index in self.views[name]]

    def save(self, folder: Path) -> None:
        write_lines(folder / "items.jsonl", (asdict(item) for item in self.items))
        header = {"views": self.views, "environment": self.environment}
        (folder / "data.json").write_text(json.dumps(header), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        header = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        items = [Item(**row) for row in read_lines(folder / "items.jsonl")]
        return cls(items, header["views"], header["environment"])


@dataclass(slots=True)
class Demo:
    """A prompt and the completion to imitate; token ids where a sampler made them."""

    prompt: str
    completion: str
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    observed: list[list[int]] = field(default_factory=list)
    """As in `Completion`."""


@dataclass(slots=True)
class Demos:
    kind: ClassVar[str] = "Demos"
    rows: list[Demo]

    def save(self, folder: Path) -> None:
        write_lines(folder / "demos.jsonl", (asdict(row) for row in self.rows))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls([Demo(**row) for row in read_lines(folder / "demos.jsonl")])


@dataclass(slots=True)
class Completion:
    """One sampled completion with all that was known when it was sampled.

    Example: ids [198, 1946, 2], logps [-0.1, -2.3, -0.4] (natural log, of the distribution that
    sampling drew from, one per id that was drawn, the stop token included), truncated False.
    """

    item: str
    """Id of the prompt's data item."""
    group: int
    """Completions with equal numbers share a prompt and are compared with each other."""
    prompt: str
    prompt_ids: list[int]
    text: str
    """Decoded completion without special tokens and stop strings; of several turns the answer: the
    last one, or nothing where it called a tool again."""
    ids: list[int]
    logps: list[float]
    truncated: bool
    """Whether `max_tokens` cut it."""
    answer: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    reward: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    """Under a rubric: the scores of those items that apply."""
    category: str | None = None
    """Under a rubric: the category that judged it."""
    confidences: dict[str, float] = field(default_factory=dict)
    """Under a rubric: how sure each item's score is, 0 … 1; 1 where it was verified."""
    added: dict[str, float] = field(default_factory=dict)
    """Further quantities of the whole completion, by the name that a formula reads; `tree` and
    `set` number the parts of its group that it belongs to."""
    path: list[list[int]] = field(default_factory=list)
    """Its steps, each the number of a node in its group and of the node's tokens that the model
    wrote; in a tree, equal nodes of two completions are the same tokens."""
    steps: dict[str, list[float]] = field(default_factory=dict)
    """Quantities with one number for each step of the path."""
    tokens: dict[str, list[float]] = field(default_factory=dict)
    """Quantities with one number for each token."""
    weights: str = ""
    """The weights that drew it, where it comes from an earlier round than its rollouts."""
    critique: str = ""
    """Of a revision: what it answers. `ids` and `logps` are as they were drawn, after the critique;
    `prompt` and `prompt_ids` are those of the task alone, which training reads."""
    revises: str = ""
    """Of a revision: the completion that it mends."""
    observed: list[list[int]] = field(default_factory=list)
    """Spans [start, end) of `ids` that the model did not write: results of tools. They are read
    and never learned from, and have no log-probs."""
    turns: list[dict[str, str]] = field(default_factory=list)
    """What the model wrote in each turn (`text`), and what a tool answered (`result`)."""

    @property
    def drawn(self) -> int:
        """Tokens that the model wrote."""
        return len(self.ids) - sum(end - start for start, end in self.observed)

    def unscored(self) -> Completion:
        """The same tokens without what was said about them."""
        return replace(
            self, reward=None, parts={}, category=None, confidences={}, added={}, path=[], steps={}
        )

    def numbered_steps(self) -> list[int]:
        """The step of each token that the model wrote, from 0; [] where there are no steps."""
        return [number for number, (_, size) in enumerate(self.path) for _ in range(size)]


def part_values(rows: Sequence[Completion], part: str) -> list[float]:
    """A part of every completion, for formulas. Where an item of a rubric does not apply, the mean
    of its group stands in, which is neutral in a comparison within the group; 0 where it applies
    to nobody in the group."""
    known: dict[int, list[float]] = {}
    for row in rows:
        if part in row.parts:
            known.setdefault(row.group, []).append(row.parts[part])
    return [row.parts[part] if part in row.parts else _mean(known.get(row.group)) for row in rows]


def _mean(values: list[float] | None) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(slots=True)
class Rollouts:
    """Completions with how they were sampled: `sampling` has temperature, top_p, max_tokens,
    engine and group; `weights` is a digest or counter naming the weights that drew them."""

    kind: ClassVar[str] = "Rollouts"
    rows: list[Completion]
    sampling: dict[str, Any]
    weights: str = ""
    environment: dict[str, Any] | None = None
    companions: list[Completion] = field(default_factory=list)
    """The greedy completion of each prompt: a baseline, never learned from."""

    def save(self, folder: Path) -> None:
        write_lines(folder / "rollouts.jsonl", (asdict(row) for row in self.rows))
        if self.companions:
            write_lines(folder / "companions.jsonl", (asdict(row) for row in self.companions))
        header = {
            "sampling": self.sampling,
            "weights": self.weights,
            "environment": self.environment,
        }
        (folder / "sampling.json").write_text(json.dumps(header), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        header = json.loads((folder / "sampling.json").read_text(encoding="utf-8"))
        rows = [Completion(**row) for row in read_lines(folder / "rollouts.jsonl")]
        beside = folder / "companions.jsonl"
        greedy = [Completion(**row) for row in read_lines(beside)] if beside.is_file() else []
        return cls(rows, header["sampling"], header["weights"], header["environment"], greedy)


@dataclass(slots=True)
class Preference:
    """Two completions of one prompt, the better one first."""

    prompt: str
    chosen: str
    rejected: str
    margin: float | None = None
    prompt_ids: list[int] | None = None
    chosen_ids: list[int] | None = None
    rejected_ids: list[int] | None = None
    chosen_observed: list[list[int]] = field(default_factory=list)
    rejected_observed: list[list[int]] = field(default_factory=list)


@dataclass(slots=True)
class Preferences:
    kind: ClassVar[str] = "Preferences"
    rows: list[Preference]

    def save(self, folder: Path) -> None:
        write_lines(folder / "preferences.jsonl", (asdict(row) for row in self.rows))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls([Preference(**row) for row in read_lines(folder / "preferences.jsonl")])


@dataclass(slots=True)
class Score:
    """What a model got on one evaluation item: one entry per sampled completion."""

    item: str
    prompt: str
    answer: str | None
    texts: list[str]
    rewards: list[float]
    parts: dict[str, list[float | None]]
    """None where an item of a rubric does not apply."""
    truncated: list[bool]
    category: str | None = None
    confidences: dict[str, list[float | None]] = field(default_factory=dict)
    turns: list[list[dict[str, str]]] = field(default_factory=list)
    """As in `Completion`; none where nobody used tools."""

    def part(self, name: str) -> list[float]:
        """The mean of a part over the completions it applies to: one value, or none."""
        values = [value for value in self.parts.get(name, ()) if value is not None]
        return [sum(values) / len(values)] if values else []


@dataclass(slots=True)
class Report:
    """An evaluation. Paired tests match the items of two reports by id."""

    kind: ClassVar[str] = "Report"
    scores: list[Score]

    def per_item(self) -> dict[str, float]:
        """Mean reward of each item."""
        return {score.item: sum(score.rewards) / len(score.rewards) for score in self.scores}

    def save(self, folder: Path) -> None:
        write_lines(folder / "scores.jsonl", (asdict(score) for score in self.scores))

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls([Score(**row) for row in read_lines(folder / "scores.jsonl")])


TEXT_ARTIFACTS: dict[str, type[Data | Demos | Rollouts | Preferences | Report]] = {
    artifact.kind: artifact for artifact in (Data, Demos, Rollouts, Preferences, Report)
}
