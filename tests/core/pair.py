"""Two processes that live as long as a test module and do together what they are told, without a
launcher: imports are paid once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
Task = Callable[..., Any]


def _serve(rank: int, count: int, port: int, pipe: Connection) -> None:
    sys.path.insert(0, str(TESTS))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.environ.update(WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import torch

    from grape.runtime import ranks

    torch.set_num_threads(1)
    ranks.join(count)
    while (told := pipe.recv()) is not None:
        module, task, args = told
        try:
            pipe.send((True, getattr(import_module(module), task)(*args)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
    ranks.leave()


class Pair:
    """The processes; `do` gives what each of them returns."""

    def __init__(self, count: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(count):
            mine, theirs = context.Pipe()
            args = (rank, count, port, theirs)
            self.processes.append(context.Process(target=_serve, args=args, daemon=True))
            self.pipes.append(mine)

    def do(self, task: Task, *args: Any) -> list[Any]:
        """Run a function of an importable module in both at once."""
        module = task.__module__.removeprefix("tests.")
        for pipe in self.pipes:
            pipe.send((module, task.__name__, args))
        found: dict[Any, Any] = {}
        while len(found) < len(self.pipes):
            ready = wait([pipe for pipe in self.pipes if pipe not in found], 60)
            assert ready, "a process waits for another that does not come"
            for pipe in self.pipes:
                if pipe not in ready:
                    continue
                good, found[pipe] = pipe.recv()
                assert good, found[pipe]
        return [found[pipe] for pipe in self.pipes]


@contextmanager
def together() -> Iterator[Pair]:
    """A pair, ended at the end of the block."""
    pair = Pair()
    for process in pair.processes:
        process.start()
    try:
        yield pair
    finally:
        for pipe in pair.pipes:
            pipe.send(None)
        for process in pair.processes:
            process.join(10)
            if process.is_alive():
                process.kill()
