"""The processes that make one stage together: which of them this is, what is its share, and what
only the first one does.

Every process runs the same code on the same data; only rows are shared out, in `core.exchange`
gradients and values are brought together. Imports torch only where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from grape.runtime.errors import StageError

T = TypeVar("T")
WAIT = timedelta(days=7)
"""How long one process waits for another that does what only one does, such as asking a judge."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where this process stands among `size`; the first `busy` of them get rows."""

    rank: int = 0
    size: int = 1
    busy: int = 1


_now = Ranks()
_host: Any = None
"""The group for what lies in main memory; none: the default one."""


def size() -> int:
    """Processes that work together here; 1 where this one is alone."""
    return _now.size


def rank() -> int:
    return _now.rank


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return _now.rank == 0


def host() -> Any:
    """The group for objects and tensors in main memory."""
    return _host


def join(processes: int) -> None:
    """Meet the other processes of this stage. Raises StageError when there are not as many."""
    global _now, _host
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    state: Any = PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)
    found = dist.get_world_size() if dist.is_initialized() else 1
    if found != processes:
        raise StageError(
            f"{processes} processes were asked for and {found} came together",
            hint="the settings ACCELERATE_… and the launcher's in the environment may be in the "
            "way; without them Grape starts its processes itself",
        )
    _host = dist.new_group(backend="gloo", timeout=WAIT) if state.device.type == "cuda" else None
    _now = Ranks(dist.get_rank(), processes, processes)


def leave() -> None:
    """The end of working together."""
    global _now, _host
    if _now.size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
    _now, _host = Ranks(), None


@contextmanager
def among(processes: int) -> Iterator[None]:
    """Inside, only the first so many processes get rows; the others take part without any."""
    global _now
    before = _now
    _now = replace(before, busy=max(1, min(processes, before.size)))
    try:
        yield
    finally:
        _now = before


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process does everything itself and waits for nobody."""
    global _now
    before, _now = _now, Ranks()
    try:
        yield
    finally:
        _now = before


def busy() -> int:
    """Processes that get rows."""
    return _now.busy


def share(costs: Sequence[int]) -> list[int]:
    """The places of this process's items: the dearest first, each to whoever has least to do."""
    if _now.size == 1:
        return list(range(len(costs)))
    loads = [0] * _now.busy
    mine = []
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        owner = loads.index(min(loads))
        loads[owner] += costs[place]
        if owner == _now.rank:
            mine.append(place)
    return sorted(mine)


def once(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them."""
    if _now.size == 1:
        return make()
    import torch.distributed as dist

    box: list[Any] = [None]
    if first():
        with alone():
            box[0] = make()
    dist.broadcast_object_list(box, src=0, group=_host)
    made: T = box[0]
    return made


def gathered(own: T) -> list[T]:
    """What every process has, in their order."""
    if _now.size == 1:
        return [own]
    import torch.distributed as dist

    found: list[Any] = [None] * _now.size
    dist.all_gather_object(found, own, group=_host)
    return found


def meet() -> None:
    """Wait until all processes are here."""
    gathered(None)
