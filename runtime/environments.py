"""Generated tasks with a verifier of their own: `reasoning_gym:NAME` and its options.

A data source makes its items here, and a worker rebuilds the same tasks to verify an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from grape.dsl.nearest import did_you_mean
from grape.runtime.errors import StageError


class Tasks(Protocol):
    """What Grape uses of a reasoning_gym dataset. Entry `i` is a function of the seed and `i`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float: ...


def build_tasks(environment: Mapping[str, Any]) -> Tasks:
    """The tasks of `{"name", "options", "size", "seed"}`.

    Raises StageError when reasoning_gym is not installed, has no such task, or refuses an option.
    """
    name = str(environment["name"]).removeprefix("reasoning_gym:")
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise StageError(
            f'`environment("{environment["name"]}")` needs the package reasoning-gym, which is not '
            "installed",
            hint="run `pip install 'grape-lang[environments]'`",
        ) from None
    if name not in DATASETS:
        raise StageError(
            f"reasoning_gym has no task `{name}`{did_you_mean(name, DATASETS)}",
            hint=f"it has {len(DATASETS)} tasks, such as chain_sum, basic_arithmetic, countdown",
        )
    options = dict(environment.get("options") or {})
    try:
        tasks: Tasks = reasoning_gym.create_dataset(
            name, size=environment["size"], seed=environment["seed"], **options
        )
    except TypeError as error:
        raise _refused(name, options, error, DATASETS[name][1]) from None
    except (AssertionError, ValueError) as error:
        reason = str(error).strip() or "its own check of the options failed"
        raise StageError(f"the task `{name}` refuses its options: {reason}") from None
    return tasks


def _refused(
    name: str, options: Mapping[str, Any], error: TypeError, config: type[Any]
) -> StageError:
    known = [field for field in config.__dataclass_fields__ if field not in ("size", "seed")]
    for option in options:
        if option not in known:
            return StageError(
                f"the task `{name}` has no option `{option}`{did_you_mean(option, known)}",
                hint=f"its options are {', '.join(known)}",
            )
    return StageError(f"the task `{name}` refuses its options: {error}")


def entries(tasks: Tasks) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in range(len(tasks)):
        yield index, tasks[index]
