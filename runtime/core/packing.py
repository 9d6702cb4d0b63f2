"""Sequences to micro-batches: no padding, and a prompt that several completions share runs once.

A tree is one prompt with its completions. Trees lie one after another in a row; a completion's
tokens see their prompt and themselves, whatever else is in the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grape.runtime import ranks
from grape.runtime.core.attention import Forest, Tree


@dataclass(frozen=True, slots=True)
class Example:
    """One completion to learn from, with what is known of it.

    `tokens` holds token quantities (one number per completion token that counts), `scalars`
    sequence ones."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    group: int
    tokens: dict[str, list[float]] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    observed: tuple[tuple[int, int], ...] = ()
    """Spans [start, end) of the completion that somebody else wrote: they are read, and count
    nowhere. Token quantities have no number for them."""

    @property
    def counted(self) -> int:
        """Tokens of the completion that count."""
        return len(self.completion) - sum(end - start for start, end in self.observed)

    def places(self) -> list[int]:
        """Where in the completion the tokens that count stand."""
        read = {place for start, end in self.observed for place in range(start, end)}
        return [place for place in range(len(self.completion)) if place not in read]


@dataclass(frozen=True, slots=True)
class Micro:
    """What one forward pass takes, [B, L], and where its results belong.

    `tree` and `branch` say who sees whom (-1: padding; branch 0: the prompt). `source` [n] are
    places in the flattened [B * L] hidden states, `targets` [n] the ids to predict there, `slots`
    [n] the places of their log-probs in the flat tensors of the whole batch."""

    input_ids: Tensor
    position_ids: Tensor
    tree: Tensor
    branch: Tensor
    source: Tensor
    targets: Tensor
    slots: Tensor
    forest: Forest | None
    """The same as `tree` and `branch`, for one row without padding; none for padded rows."""

    def mask(self) -> Tensor:
        """Who sees whom, bool [B, 1, L, L]; padding sees itself."""
        same = self.tree[:, :, None] == self.tree[:, None, :]
        kin = (self.branch[:, None, :] == 0) | (self.branch[:, :, None] == self.branch[:, None, :])
        place = torch.arange(self.tree.shape[1], device=self.tree.device)
        before = place[None, :] <= place[:, None]
        own = torch.eye(len(place), dtype=torch.bool, device=self.tree.device)
        real = (self.tree >= 0)[:, None, :]
        return ((same & kin & before & real) | own)[:, None]


def trees(
    examples: Sequence[Example],
    only: Iterable[int],
    *,
    share: bool,
    keep_groups: bool,
    paired: bool,
) -> list[list[list[int]]]:
    """Units that must not be cut, each a list of trees, each a list of the numbers `only`."""
    units: dict[object, list[int]] = {}
    for number in only:
        example = examples[number]
        key: object = number
        if paired:
            key = number // 2
        elif keep_groups:
            key = example.group
        elif share:
            key = (example.group, example.prompt)
        units.setdefault(key, []).append(number)
    found = []
    for members in units.values():
        by_prompt: dict[object, list[int]] = {}
        for number in members:
            by_prompt.setdefault(examples[number].prompt if share else number, []).append(number)
        found.append(list(by_prompt.values()))
    return found


def tokens_of(examples: Sequence[Example], tree: Iterable[int]) -> int:
    """Input tokens of a tree: the prompt once, completions without their last token."""
    members = list(tree)
    return len(examples[members[0]].prompt) + sum(
        len(examples[number].completion) - 1 for number in members
    )


def micro_batches(
    examples: Sequence[Example],
    *,
    budget: int,
    keep_groups: bool,
    paired: bool,
    share: bool = True,
    packed: bool = True,
    device: torch.device | str = "cpu",
    only: Sequence[int] | None = None,
) -> list[Micro]:
    """Cut this process's share of a batch (or of its examples `only`) into micro-batches of at
    most `budget` input tokens, as few as fit one after another, and of sizes as even as that
    allows.

    Units stay whole; one larger than the budget gets a micro-batch of its own. The gradient is the
    same for every budget. With `keep_groups` false, a shared prompt's completions may be split."""
    chosen = range(len(examples)) if only is None else only
    units = trees(examples, chosen, share=share, keep_groups=keep_groups, paired=paired)
    whole = keep_groups or paired
    if not whole and ranks.busy() > 1:
        tokens = sum(tokens_of(examples, tree) for unit in units for tree in unit)
        most = min(budget, -(-tokens // ranks.busy()))
        units = [[part] for unit in units for tree in unit for part in _split(examples, tree, most)]
    sizes = [sum(tokens_of(examples, tree) for tree in unit) for unit in units]
    units = [units[place] for place in ranks.share(sizes)]
    starts = _starts(examples)
    bins = _balanced(examples, units, budget, whole=whole)
    return [_micro(examples, rows, starts, packed, device) for rows in bins]


Unit = list[list[int]]
"""Trees that stay together."""


@dataclass(frozen=True, slots=True)
class _Filled:
    """Micro-batches of at most so many tokens, but for units that are larger by themselves."""

    bins: list[Unit]
    sizes: list[int]

    def no_worse(self, other: _Filled) -> bool:
        """Not more of them, and no prompt run more often."""
        return len(self.bins) <= len(other.bins) and sum(self.sizes) <= sum(other.sizes)


def _balanced(
    examples: Sequence[Example], units: list[Unit], budget: int, *, whole: bool
) -> list[Unit]:
    """As full as the budget allows, then with the smallest room that is as good."""
    best = _filled(examples, units, budget, whole=whole)
    if len(best.bins) < 2:
        return best.bins
    low, high = sum(best.sizes) // len(best.bins), max(best.sizes)
    while low < high:
        room = (low + high) // 2
        found = _filled(examples, units, room, whole=whole)
        if max(found.sizes) <= high and found.no_worse(best):
            best, high = found, min(room, max(found.sizes))
        else:
            low = room + 1
    return best.bins


def _filled(examples: Sequence[Example], units: list[Unit], room: int, *, whole: bool) -> _Filled:
    """One after another: a micro-batch is closed when the next unit does not fit."""
    bins: list[Unit] = []
    sizes: list[int] = []
    if not whole:
        units = [[part] for unit in units for tree in unit for part in _split(examples, tree, room)]
    for unit in units:
        size = sum(tokens_of(examples, tree) for tree in unit)
        if not bins or sizes[-1] + size > room:
            bins.append([])
            sizes.append(0)
        bins[-1] += unit
        sizes[-1] += size
    return _Filled(bins, sizes)


def _split(examples: Sequence[Example], tree: list[int], room: int) -> Unit:
    prompt = len(examples[tree[0]].prompt)
    parts: Unit = []
    size = 0
    for number in tree:
        more = len(examples[number].completion) - 1
        if not parts or size + more > room:
            parts.append([])
            size = prompt
        parts[-1].append(number)
        size += more
    return parts


def _starts(examples: Sequence[Example]) -> list[int]:
    """Where the flat values of each example begin."""
    starts, at = [], 0
    for example in examples:
        starts.append(at)
        at += example.counted
    return starts


def _micro(
    examples: Sequence[Example],
    rows: list[list[int]],
    starts: list[int],
    packed: bool,
    device: torch.device | str,
) -> Micro:
    lines = [rows] if packed else [[tree] for tree in rows]
    width = max(sum(tokens_of(examples, tree) for tree in line) for line in lines)
    columns: dict[str, list[list[int]]] = {name: [] for name in ("ids", "pos", "tree", "branch")}
    source: list[int] = []
    targets: list[int] = []
    slots: list[int] = []
    seen: list[Tree] = []
    for row, line in enumerate(lines):
        ids: list[int] = []
        pos: list[int] = []
        tree_of: list[int] = []
        branch: list[int] = []
        for number, tree in enumerate(line):
            prompt = examples[tree[0]].prompt
            start, twigs = len(ids), []
            last = row * width + len(ids) + len(prompt) - 1
            ids += prompt
            pos += range(len(prompt))
            branch += [0] * len(prompt)
            for twig, member in enumerate(tree, 1):
                completion = examples[member].completion
                first = row * width + len(ids)
                before = [last, *range(first, first + len(completion) - 1)]
                counted = examples[member].places()
                source += [before[place] for place in counted]
                targets += [completion[place] for place in counted]
                slots += range(starts[member], starts[member] + len(counted))
                ids += completion[:-1]
                pos += range(len(prompt), len(prompt) + len(completion) - 1)
                branch += [twig] * (len(completion) - 1)
                twigs.append((len(ids) - len(completion) + 1, len(ids)))
            seen.append(Tree(start, start + len(prompt), len(ids), tuple(twigs)))
            tree_of += [number] * (len(ids) - len(tree_of))
        gap = width - len(ids)
        for name, column, filler in (
            ("ids", ids, 0),
            ("pos", pos, 0),
            ("tree", tree_of, -1),
            ("branch", branch, 0),
        ):
            columns[name].append(column + [filler] * gap)
    table = {name: torch.tensor(column, device=device) for name, column in columns.items()}
    return Micro(
        table["ids"],
        table["pos"],
        table["tree"],
        table["branch"],
        torch.tensor(source, device=device),
        torch.tensor(targets, device=device),
        torch.tensor(slots, device=device),
        Forest(tuple(seen)) if packed else None,
    )
