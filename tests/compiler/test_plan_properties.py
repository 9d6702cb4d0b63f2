"""What may be done to a file without re-running anything: order, comments, formatting, names."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest

from grape.compiler.program import load
from grape.dsl import ast
from grape.runtime.preparing import prepare

ROOT = Path(__file__).parents[2]
TINY = ROOT / "pipelines" / "tiny"


def keys(file: Path) -> dict[str, str]:
    program = load(file)
    assert program.ok, program.findings
    return {stage.name: stage.key for stage in prepare(program.graph(), file).stages}


def shuffled(text: str, file: Path, seed: int) -> str:
    """The statements of the pipeline, and those of its repeats, in another order; comments and
    empty lines between them."""
    declared = next(iter(load(file).files.values())).declarations
    pipeline = next(one for one in declared if isinstance(one, ast.PipelineDecl))
    chance = random.Random(seed)
    starts = [one.span.start for one in pipeline.body]
    close = text.rindex("}")
    ends = [*starts[1:], close]
    pieces = [
        text[start:end].rstrip().replace("##", "#") for start, end in zip(starts, ends, strict=True)
    ]
    chance.shuffle(pieces)
    noise = ["\n", "\n\n", '\n  # a remark: { ( "\n', "\n\n   # another\n"]
    body = "".join(chance.choice(noise) + "  " + piece for piece in pieces)
    return text[: starts[0]] + body + "\n}\n"


@pytest.mark.parametrize("name", ["quickstart", "preference", "rejection"])
@pytest.mark.parametrize("seed", range(5))
def test_order_and_comments_never_rerun_anything(tmp_path: Path, name: str, seed: int) -> None:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{name}.grape"
    before, text = keys(file), file.read_text()
    changed = shuffled(text, file, seed)
    assert changed != text
    file.write_text(changed)
    assert keys(file) == before


@pytest.mark.parametrize("name", ["quickstart", "preference", "rejection"])
@pytest.mark.parametrize("seed", range(3))
def test_new_names_keep_every_artifact(tmp_path: Path, name: str, seed: int) -> None:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{name}.grape"
    before = keys(file)
    chance = random.Random(seed)
    renamed = {old: f"{old}_{chance.randrange(1000)}" for old in before if chance.random() < 0.6}
    text = file.read_text()
    for old, new in renamed.items():
        text = re.sub(rf'(?<![\w/."]){old}\b(?!\.jsonl)', new, text)
    file.write_text(text)
    assert keys(file) == {renamed.get(old, old): key for old, key in before.items()}


def test_spaces_and_line_ends_never_rerun_anything(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "quickstart.grape"
    before = keys(file)
    file.write_text(file.read_text().replace(" = ", "   =  ").replace("\n", "\n\n"))
    assert keys(file) == before
