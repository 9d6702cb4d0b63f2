"""`sample(model, prompts)`: completions of the next prompts of the data. It scores nothing."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from grape.runtime import curriculum, ranks
from grape.runtime.artifacts import Completion, Data, Item, Rollouts
from grape.runtime.context import Context
from grape.runtime.critics.sampling import completions_of
from grape.runtime.verbs.selection import by_group

Thing = TypeVar("Thing")


def drawn(items: Sequence[Thing], count: int, seed: int, start: int) -> list[Thing]:
    """`count` items from position `start` of an endless row of shuffled passes over the data; each
    pass has an order of its own, a function of `seed`."""
    chosen: list[Thing] = []
    orders: dict[int, list[int]] = {}
    for position in range(start, start + count):
        lap, place = divmod(position, len(items))
        if lap not in orders:
            orders[lap] = list(range(len(items)))
            random.Random(f"{seed}/{lap}").shuffle(orders[lap])
        chosen.append(items[orders[lap][place]])
    return chosen


def start_of(context: Context, count: int) -> int:
    """Where in the row of prompts this draw begins: behind those of earlier rounds, and of further
    attempts, which are counted in the stage's memory."""
    if context.attempt:
        memory = context.state.setdefault("memory", {})
        memory["further"] = memory.get("further", 0) + count
    further: int = context.state.get("memory", {}).get("further", 0)
    return context.round * count + further


def chosen_of(context: Context, items: Sequence[Item]) -> list[Item]:
    """The prompts of this draw."""
    settings = context.stage.settings
    count, seed, how = settings["prompts"], settings["seed"], settings["curriculum"]
    if how is None:
        return drawn(items, count, seed, start_of(context, count))
    key, skip = f"{seed}/{context.round}", context.attempt * count
    if how["kind"] == "by_column":
        progress = context.round / max(1, context.rounds - 1)
        return curriculum.by_column(items, how, count, progress, key, skip)
    return curriculum.by_rate(items, how, rates_of(context), count, key, skip)


def rates_of(context: Context) -> curriculum.Rates:
    """What was measured of each prompt so far; it lies in the stage's memory."""
    memory = context.state.setdefault("memory", {})
    rates: curriculum.Rates = memory.setdefault("rates", {})
    return rates


def of_sizes(
    draw: Callable[..., Rollouts],
    model: Any,
    items: Sequence[Item],
    sizes: Sequence[int],
    how: dict[str, Any],
) -> Rollouts:
    """So many completions of each item, in the order of the items."""
    parts: list[Rollouts] = []
    rows: list[Completion] = []
    for size in sorted(set(sizes)):
        places = [place for place, wanted in enumerate(sizes) if wanted == size]
        some = [items[place] for place in places]
        parts.append(draw(model, some, **{**how, "group": size}))
        rows += [replace(row, group=places[row.group]) for row in parts[-1].rows]
    rows.sort(key=lambda row: row.group)
    sampling = {**parts[0].sampling, "group": how["group"]}
    return replace(parts[0], rows=rows, sampling=sampling)


def grown(
    model: Any, items: Sequence[Item], sampler: dict[str, Any], how: dict[str, Any]
) -> Rollouts:
    """Completions that begin with parts of others: leaves of trees, or continuations of states."""
    if sampler["kind"] == "vine":
        from grape.runtime.core.vines import continued

        return continued(model, items, sampler, how)
    from grape.runtime.core.trees import grow

    return grow(model, items, sampler, how)


def conversing(project: Path, sampler: dict[str, Any]) -> Callable[..., Rollouts]:
    """Draws completions of several turns; called like `completions_of`."""
    from grape.runtime.core.turns import conversed

    return lambda model, items, **how: ranks.once(
        lambda: conversed(model, items, sampler, how, project)
    )


def drawing(context: Context) -> Callable[..., Rollouts]:
    """What draws the completions of a stage; called like `completions_of`."""
    settings = context.stage.settings
    if settings["sampler"] and settings["sampler"]["kind"] == "turns":
        return conversing(context.project, settings["sampler"])
    if settings["engine"] == "transformers":
        return completions_of
    from grape.runtime.core.engines import drawn_by, engine_of

    return lambda model, items, **how: ranks.once(
        lambda: drawn_by(engine_of(context), model, items, **how)
    )


def following(context: Context, model: Any, rollouts: Rollouts) -> Rollouts:
    """Completions that go on from rollouts: after a hint, from nodes of trees, or as the next call
    of a program."""
    settings = context.stage.settings
    sampler, how = settings["sampler"], _how(context)
    if sampler["kind"] == "probe":
        from grape.runtime.core.probes import probed

        return probed(model, rollouts, sampler, how)
    if sampler["kind"] == "module":
        from grape.runtime.core.programs import called

        return called(model, rollouts, sampler, how)
    from grape.runtime.core.prefixes import resumed

    groups = list(by_group(rollouts.rows).values())
    count = settings["prompts"]
    if count is not None:
        start = start_of(context, count)
        order = drawn(range(len(groups)), count, settings["seed"], start)
        groups = [groups[number] for number in order]
    return resumed(model, rollouts, groups, sampler, how)


def _how(context: Context) -> dict[str, Any]:
    """The arguments of `generate_for` beside the model and the items."""
    settings = context.stage.settings
    drawing = ("group", "temperature", "top_p", "max_tokens", "stop")
    names = (*drawing, "rows", "compact", "own_layers", "pack_weights")

    def emit(event: dict[str, object]) -> None:
        context.emit({**event, "stage": context.stage.name})

    return {
        **{name: settings[name] for name in names},
        "seed": settings["seed"],
        "round": context.round,
        "emit": emit,
    }


def derived(seed: int, *what: object) -> int:
    """A seed for a purpose of its own: completions of a prompt that comes twice must differ."""
    text = "/".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def _hearer(context: Context, data: Data) -> Callable[[Sequence[Completion]], None] | None:
    """Who hears of every group as soon as it is finished."""
    tell, turn = context.finished, (context.round, context.attempt)
    return None if tell is None else lambda rows: tell(rows, data.environment, turn)


def _kept(context: Context, model: Any) -> int:
    """Bytes of activations to keep: none outside a repeat, and none any more once nothing learned
    from what was kept."""
    if context.rounds == 1 or context.attempt or context.state.get("unlearned"):
        return 0
    if getattr(model, "tape", None) is not None:
        model.tape = None
        context.state["unlearned"] = True
        return 0
    return int(context.stage.settings["keep_activations"])


def run(context: Context, inputs: dict[str, object]) -> Rollouts:
    """`group` completions of each of `prompts` items. Raises StageError when a prompt leaves no
    room for `max_tokens`."""
    settings = context.stage.settings
    model, data = inputs["model"], inputs["prompts"]
    if isinstance(data, Rollouts):
        return following(context, model, data)
    assert isinstance(data, Data)
    items = data.view(context.stage.inputs["prompts"].view)
    count = settings["prompts"]
    chosen = list(items) if count is None else chosen_of(context, items)
    how = _how(context)
    if context.attempt:
        how["seed"] = derived(how["seed"], context.attempt)
    least = (settings["curriculum"] or {}).get("least")
    sampler = settings["sampler"]
    draw = drawing(context)
    if sampler and sampler["kind"] != "turns":
        rollouts = grown(model, chosen, settings["sampler"], how)
    elif least is not None:
        sizes = curriculum.budget(chosen, least, settings["group"], rates_of(context))
        rollouts = of_sizes(draw, model, chosen, sizes, how)
    else:
        more: dict[str, Any] = {}
        if draw is completions_of:
            more = {"finished": _hearer(context, data), "keep_activations": _kept(context, model)}
        rollouts = draw(model, chosen, **how, **more)
    rollouts.environment = data.environment
    if settings["greedy"]:
        likeliest = {**how, "group": 1, "temperature": 0.0}
        rollouts.companions = draw(model, chosen, **likeliest).rows
    return rollouts
