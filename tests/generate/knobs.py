"""Settings of a verb, drawn within the limits that its own model states."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from grape.compiler.verb import Secret, Settings, Unit
from grape.compiler.verbs import verb

_APART = {
    "train": {"sequences_per_update", "max_length", "adapter", "betas"},
    "sample": {"prompts", "group", "max_tokens", "engine", "engine_memory"},
    "evaluate": {"max_tokens", "group"},
    "score": {"combine"},
    "merge": {"weights", "method"},
    "export": {"path"},
    "jsonl": {"path", "limit", "split", "seed"},
    "fresh": {"architecture", "hidden", "heads", "kv_heads", "context", "vocab"},
}
"""Settings that depend on others, or on the data: the programs write them, or leave them out."""


_UNITS = {"duration": ["s", "min", "ms", "h"], "size": ["KiB", "MiB", "GiB"]}


@st.composite
def settings_of(draw: st.DrawFn, name: str) -> list[str]:
    """Some settings of a verb, as they are written, each within the limits of its model."""
    made = verb(name)
    apart = _APART.get(name, set()) | set(made.literals)
    fields = {
        key: value
        for key, value in made.settings.model_fields.items()
        if key not in apart and _drawable(value)
    }
    chosen = draw(st.sets(st.sampled_from(sorted(fields)), max_size=3)) if fields else set()
    return [f"{key} = {draw(_written(fields[key]))}" for key in sorted(chosen)]


def _drawable(known: FieldInfo) -> bool:
    kinds = _kinds(known.annotation)
    return not any(kind in (str, Secret, dict, list) or _is_model(kind) for kind in kinds)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _kinds(annotation: Any) -> list[Any]:
    """The plain types that an annotation is made of; literals as they are."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    if hasattr(annotation, "__metadata__"):
        return _kinds(get_args(annotation)[0])
    return [origin if origin in (list, dict) else annotation]


def _limits(known: FieldInfo) -> list[Any]:
    found = list(known.metadata)
    for part in (known.annotation, *get_args(known.annotation)):
        found += getattr(part, "__metadata__", ())
    flat = [getattr(item, "metadata", None) or [item] for item in found]
    return [item for items in flat for item in items]


def _number(limit: Any) -> float:
    return float(limit)


@st.composite
def _written(draw: st.DrawFn, known: FieldInfo) -> str:
    limits = _limits(known)
    kind = draw(st.sampled_from(_kinds(known.annotation)))
    if kind is NoneType:
        return "none"
    if get_origin(kind) is Literal:
        return f'"{draw(st.sampled_from(get_args(kind)))}"'
    if kind is bool:
        return draw(st.sampled_from(["true", "false"]))
    low = max((_number(item.ge) for item in limits if isinstance(item, Ge)), default=0.0)
    low = max(low, *(_number(item.gt) + 1e-3 for item in limits if isinstance(item, Gt)), low)
    high = min((_number(item.le) for item in limits if isinstance(item, Le)), default=1e3)
    high = min(high, *(_number(item.lt) - 1e-3 for item in limits if isinstance(item, Lt)), high)
    number = draw(st.integers(int(low + 0.999), int(high)))
    if any(isinstance(item, Unit) for item in limits):
        name = next(item.name for item in limits if isinstance(item, Unit))
        return f"{max(1, number)}{draw(st.sampled_from(_UNITS[name]))}"
    if kind is int:
        return str(number)
    share = draw(st.sampled_from([0.0, 0.125, 0.5, 1.0]))
    return repr(round(low + share * (high - low), 6))
