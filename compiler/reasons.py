"""Why a stage runs: its key document against that of the last run, down to the first field.

In come key documents; out come the fields that differ, the class of the change, and a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grape.compiler.graph import Stage
from grape.compiler.plan import Change, Class

State = Literal["cached", "run", "resume", "skipped"]


@dataclass(frozen=True, slots=True)
class Because:
    """The reason of a stage's state."""

    text: str
    change: Class
    differs: tuple[Change, ...] = ()
    upstream: tuple[str, ...] = ()


def because(
    stage: Stage,
    documents: Mapping[str, dict[str, Any]],
    state: State,
    previous: Mapping[str, Any],
    *,
    done: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Because:
    """Why the stage is in this state. `done` are the rounds that a shorter run left; `settings`
    those of the last run, which tell of changes that change nothing."""
    if state == "cached":
        return _cached(stage, settings)
    before, now = previous.get(stage.name), documents[stage.name]
    if before is None or before == now:
        text = "goes on from its checkpoint" if state == "resume" else "not made yet"
        return Because(text, "new" if before is None else "none")
    differs = tuple(_differences(before, now, stage.body))
    rewired = before.get("inputs") != now["inputs"]
    upstream = _changed_inputs(stage, documents, previous) if rewired else ()
    words = [_sentence(change) for change in differs]
    if rewired:
        words += _of_inputs(upstream, documents)
    if done:
        words.append(f"goes on from round {done}")
    elif state == "resume":
        words.append("goes on from its checkpoint")
    text = ", ".join(words) or "its key changed"
    if state == "resume":
        return Because(text, "resumable", differs, upstream)
    only_inputs = rewired and not differs
    return Because(text, "downstream" if only_inputs else "breaking", differs, upstream)


def _cached(stage: Stage, settings: Mapping[str, Any] | None) -> Because:
    changed = _settings(settings or stage.settings, stage.settings, None)
    neutral = tuple(changed)
    if not neutral:
        return Because("in the store", "none")
    words = ", ".join(_sentence(change) for change in neutral)
    return Because(f"in the store; {words} changes no result", "neutral", neutral)


def _changed_inputs(
    stage: Stage, documents: Mapping[str, dict[str, Any]], previous: Mapping[str, Any]
) -> tuple[str, ...]:
    """The inputs that are not what they were, data and models first found in the file."""
    names = dict.fromkeys(edge.source for edge in stage.inputs)
    return tuple(name for name in names if previous.get(name, {}) != documents[name])


def _of_inputs(changed: Sequence[str], documents: Mapping[str, dict[str, Any]]) -> list[str]:
    """In words: a source by itself, the first stage."""
    stages = [name for name in changed if documents[name]["inputs"]]
    if stages:
        return [f"downstream of `{stages[0]}`"]
    return [f"input `{name}` changed" for name in changed] or ["takes other inputs"]


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], body: Sequence[Stage], of: str | None = None
) -> Iterator[Change]:
    """What differs between two key documents apart from the inputs."""
    if before.get("verb") != now["verb"]:
        yield Change(field="verb", of=of, old=before.get("verb"), new=now["verb"])
        return
    for name in ("version", "key"):
        if before.get(name) != now[name]:
            yield Change(field=name, of=of, old=before.get(name), new=now[name])
    yield from _settings(before.get("settings", {}), now["settings"], of)
    for name in _WORDS:
        if before.get(name) != now.get(name):
            yield _first(before.get(name), now.get(name), name, of)
    if before.get("files") != now.get("files"):
        old, new = before.get("files", {}), now.get("files", {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                yield Change(field=f"files.{name}", of=of, old=old.get(name), new=new.get(name))
    if len(before.get("body", ())) != len(body) or before.get("next") != now.get("next"):
        yield Change(field="body", of=of, old=len(before.get("body", ())), new=len(body))
        return
    for one, other, stage in zip(before.get("body", ()), now.get("body", ()), body, strict=False):
        yield from _differences(one, other, (), stage.name)
        if one.get("inputs") != other["inputs"]:
            yield Change(field="inputs", of=stage.name)


def _settings(old: Mapping[str, Any], new: Mapping[str, Any], of: str | None) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield Change(field=f"settings.{name}", of=of, old=old.get(name), new=new.get(name))


def _first(old: Any, new: Any, path: str, of: str | None) -> Change:
    """The first place in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return _first(old.get(name), new.get(name), f"{path}.{name}", of)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            if one != other:
                return _first(one, other, f"{path}.{place}", of)
    return Change(field=path, of=of, old=old, new=new)


_WORDS = {
    "formula": "algorithm",
    "reward": "reward",
    "every": "rounds of `every`",
    "until": "`until`",
}


def _sentence(change: Change) -> str:
    """`lr of `next`: 1e-05 → 2e-05`."""
    kind, _, name = change.field.partition(".")
    of = f" of `{change.of}`" if change.of else ""
    match kind:
        case "settings":
            return f"{name}{of}{_shown(change.old, change.new)}"
        case "verb":
            return f"{change.old} → {change.new}{of}"
        case "version" | "key":
            what = f"`{change.of}`" if change.of else "it"
            return f"Grape makes {what} otherwise now{_shown(change.old, change.new)}"
        case "files":
            return f"{name}{of} changed on disk"
        case "body":
            return "stages of the repeat changed"
        case "inputs":
            return f"`{change.of}` takes other inputs"
    last = name.rpartition(".")[2]
    place = "" if last.isdecimal() or not last else f" {last}"
    return f"{_WORDS[kind]}{of}{place}{_shown(change.old, change.new)}"


def _shown(old: object, new: object) -> str:
    """`: 1 → 2` for values that fit on a line."""
    one, other = (json.dumps(value, ensure_ascii=False) for value in (old, new))
    return f": {one} → {other}" if len(one) + len(other) <= 40 else " changed"
