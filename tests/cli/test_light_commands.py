"""Commands that run nothing load nothing heavy: that is what keeps a cold `grape lint` quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TINY = str(Path(__file__).parents[2] / "pipelines" / "tiny" / "quickstart.grape")
TRAINING = {"torch", "transformers", "tokenizers", "accelerate", "peft", "gguf", "numpy"}
RUNNING = {"prefect", "fastapi", "httpx", "sqlalchemy", "asyncio", "multiprocessing"}
HEAVY = TRAINING | RUNNING | {"networkx", "pandas", "pyarrow", "rich", "reasoning_gym"}
CHECKING = {"lark", "pydantic", "grape.compiler.program"}
CASES = [
    (("lint", TINY), HEAVY),
    (("graph", TINY), HEAVY),
    (("plan", "--no-probe", TINY), HEAVY),
    (("plan", TINY), HEAVY - {"tokenizers"}),
    (("lint", "--probe", TINY), HEAVY - {"tokenizers"}),
    (("explain", "grpo"), HEAVY | {"pydantic"}),
    (("explain", "G204"), HEAVY | CHECKING),
    (("fmt", "--check", TINY), HEAVY | {"pydantic"}),
    (("lint", "--help"), HEAVY | CHECKING),
    (("--help",), HEAVY | CHECKING),
    (("--version",), HEAVY | CHECKING),
]


@pytest.mark.parametrize(("words", "forbidden"), CASES, ids=lambda value: " ".join(value)[:24])
def test_a_command_that_runs_nothing_loads_nothing_heavy(
    words: tuple[str, ...], forbidden: set[str]
) -> None:
    code = (
        "import atexit, sys\n"
        f"found = lambda: sorted({forbidden!r} & set(sys.modules))\n"
        "atexit.register(lambda: print(found(), file=sys.stderr))\n"
        "from grape.runtime.cli import main\n"
        f"raise SystemExit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
