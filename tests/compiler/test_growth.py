"""How the time of a check grows with the file. Ratios are generous: the machine may be busy."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from grape.compiler.program import load

HEAD = """grape 1

use sft from "std/algorithms"

pipeline big(long: bool = false) {
  data sums = jsonl("sums.jsonl") { prompt = "{a} +", completion = "{sum}", answer = "{sum}" }
  model base = fresh("llama", sums)
"""
SFT = "sums) { algorithm = sft() }"


def branches(count: int) -> str:
    """An `if` with two branches for each stage, all of one test."""
    one = f"  if long {{\n    stage sN = train(base, {SFT}\n  }} else {{\n"
    one += f"    stage sN = train(base, {SFT}\n  }}\n"
    return _file(one.replace("sN", f"s{number}") for number in range(count))


def backwards(count: int) -> str:
    """A chain of trainings in which every stage stands before the one that it needs."""
    lines = [f"  stage s0 = train(base, {SFT}\n"]
    lines += [f"  stage s{n} = train(s{n - 1}, {SFT}\n" for n in range(1, count)]
    return _file(reversed(lines))


def merges(count: int) -> str:
    """Merges of the two models before, so that there are as many paths as rabbits."""
    lines = [f"  stage s0 = train(base, {SFT}\n  stage s1 = train(base, {SFT}\n"]
    lines += [f"  stage s{n} = merge(s{n - 1}, s{n - 2})\n" for n in range(2, count)]
    return _file([*lines, f"  stage e = evaluate(s{count - 1}, sums, exact())\n"])


def allowed(count: int) -> str:
    """A suppression for each stage."""
    allow = "  # grape: allow G403: why\n"
    return _file(f"{allow}  stage s{n} = train(base, {SFT}\n" for n in range(count))


def _file(lines: Iterable[str]) -> str:
    return HEAD + "".join(lines) + "}\n"


@pytest.fixture
def frozen() -> Iterator[None]:
    """The objects of other tests do not slow the collector down, which is timed here as well."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("shape", [branches, backwards, merges, allowed])
def test_ten_times_the_stages_take_about_ten_times_as_long(
    shape: Callable[[int], str], tmp_path: Path
) -> None:
    (tmp_path / "sums.jsonl").write_text('{"a": 1, "sum": 2}\n' * 40)
    file = tmp_path / "big.grape"

    def seconds(count: int) -> float:
        file.write_text(shape(count))
        start = time.process_time()
        program = load(file)
        assert not [f for f in program.findings if f.code not in ("G403", "G602")]
        return time.process_time() - start

    seconds(20)
    small = min(seconds(80) for _ in range(3))
    assert seconds(800) < 25 * max(small, 0.02)


def test_a_long_circle_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text('{"a": 1, "sum": 2}\n')
    file = tmp_path / "circle.grape"
    file.write_text(_file(f"  stage s{n} = train(s{(n + 1) % 400}, {SFT}\n" for n in range(400)))
    assert {finding.code for finding in load(file).findings} == {"G112"}


def test_branches_of_one_test_are_taken_together(tmp_path: Path) -> None:
    """What one `if long` makes, another `if long` may use, also while `long` is false."""
    (tmp_path / "sums.jsonl").write_text('{"a": 1, "sum": 2}\n')
    file = tmp_path / "together.grape"
    body = [
        f"  if long {{\n    stage s = train(base, {SFT}\n  }}\n",
        '  if not long {\n    output base as "models/base"\n',
        '  } else {\n    output s as "models/s"\n  }\n',
        '  if long and seed > 1 {\n    output s as "models/t"\n  }\n',
    ]
    file.write_text(_file(body).replace("long: bool", "seed: int = 1, long: bool"))
    assert load(file).findings == []
