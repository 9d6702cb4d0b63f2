"""Completions from a served model: text alone, which can be imitated or paired, or with `tokens`
the ids and log-probs that its server gives, which a formula may learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grape.compiler.types import SERVER
from grape.runtime import ranks
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.context import Emit
from grape.runtime.critics.questions import Failed
from grape.runtime.critics.server import Served
from grape.runtime.errors import StageError


def generate_served(
    served: Served,
    items: Sequence[Item],
    *,
    group: int,
    temperature: float,
    top_p: float,
    max_tokens: int,
    stop: Sequence[str],
    seed: int,
    round: int,
    emit: Emit,
    finished: Callable[[Sequence[Completion]], None] | None = None,
) -> Rollouts:
    """`group` completions of each item, in the order of the items; `finished` hears of each group
    when it is complete. Raises StageError where the
    server gives no answer: a missing completion is never an empty one."""
    from grape.runtime.critics.client import Client

    client = Client(served)
    how: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    if stop:
        how["stop"] = list(stop)

    def one(place: int) -> Completion:
        number, sample = divmod(place, group)
        item = items[number]
        draw = hashlib.sha256(f"{seed}/{round}/{item.id}/{sample}".encode()).digest()
        asked: dict[str, Any] = {"model": served.model, "seed": int.from_bytes(draw[:4]) >> 1}
        if served.tokens:
            begin = {"prompt": item.prompt} if item.prompt is not None else _messages(item)
            made = client.drawn({**asked, **begin, **how})
        else:
            made = client.chat({**asked, **_messages(item), **how})
        if isinstance(made, Failed):
            raise StageError(f"no completion of item {item.id}: {made.reason}")
        return _completion(item, number, made, stop)

    rows: list[Completion] = []
    pool = ThreadPoolExecutor(served.max_concurrency)
    try:
        for row in pool.map(one, range(len(items) * group)):
            rows.append(row)
            if finished is not None and len(rows) % group == 0:
                finished(rows[-group:])
            total = len(items) * group
            emit({"event": "progress", "done": len(rows), "total": total, "unit": "completions"})
    finally:
        pool.shutdown(cancel_futures=True)
        client.close()
    sampling = {
        **how,
        "group": group,
        "stop": list(stop),
        "engine": SERVER if served.tokens else "openai",
    }
    return Rollouts(rows, sampling, f"{served.url} {served.model}")


def _completion(item: Item, group: int, made: dict[str, Any], stop: Sequence[str]) -> Completion:
    text, turns = made["text"], _turns(item)
    cuts = [at for word in stop if (at := text.find(word)) >= 0]
    return Completion(
        item=item.id,
        group=group,
        prompt=item.prompt or "\n".join(str(turn["content"]) for turn in turns),
        prompt_ids=made.get("prompt_ids", []),
        text=text[: min(cuts)] if cuts else text,
        ids=made.get("ids", []),
        logps=made.get("logps", []),
        truncated=made["cut"],
        answer=item.answer,
        columns=item.columns,
    )


def _messages(item: Item) -> dict[str, Any]:
    return {"messages": _turns(item)}


def completions_of(model: Any, items: Sequence[Item], **how: Any) -> Rollouts:
    """Completions by a model, here or behind a server; see `generate_served` for the settings."""
    if isinstance(model, Served):
        here = ("rows", "compact", "own_layers", "keep_activations", "pack_weights")
        asked = {name: value for name, value in how.items() if name not in here}
        return ranks.once(lambda: generate_served(model, items, **asked))
    from grape.runtime.core.rollout import generate_for

    return generate_for(model, items, **how)


def _turns(item: Item) -> list[dict[str, Any]]:
    if item.prompt is not None:
        return [{"role": "user", "content": item.prompt}]
    turns = list(item.messages or ())
    while turns and turns[-1].get("role") == "assistant":
        turns.pop()
    return turns
