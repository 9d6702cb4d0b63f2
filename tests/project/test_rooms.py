"""Rooms are one-way, static commands stay light, and no file outgrows its reader."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {"dsl": 0, "compiler": 1, "runtime": 2}
HEAVY = ("torch", "transformers", "prefect", "networkx", "accelerate", "peft")


def _modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_never_imports_a_later_one(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for name in _imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "grape" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS[parts[1]] <= ROOMS[room], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 600
    assert not text.strip() or ast.get_docstring(tree), "a module opens with what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, node.name


def test_linting_loads_nothing_heavy() -> None:
    code = (
        "import sys; from grape.runtime.cli import main; "
        f"main(['lint', {str(ROOT / 'pipelines' / 'quickstart.grape')!r}]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_every_module_imports() -> None:
    names = [
        "grape." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in _modules()
        if path.name not in ("__init__.py", "table.py")
    ]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    subprocess.run([sys.executable, "-c", code, *names], check=True)
