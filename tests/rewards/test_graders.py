"""Rewards that need more than text: sql, json_schema, math, classifier, unit_tests, the sandbox."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.errors import StageError
from grape.runtime.rewards import sandbox
from grape.runtime.rewards.evaluation import score_rollouts
from grape.runtime.rewards.extract import extracted
from grape.runtime.rewards.sandbox import Ended, Limits, NoSandbox, run_program


def row(text: str, answer: str | None = "4", **columns: Any) -> Completion:
    return Completion("i", 0, "Task", [1], text, [1], [0.0], False, answer, columns)


def one(name: str, completion: Completion, project: Path = Path(), **params: Any) -> float:
    call = {"op": "call", "name": name, "part": name, "params": params}
    made = score_rollouts(
        call,
        Rollouts([completion], {}),
        project=project,
        on_error="stop",
        timeout=20.0,
        emit=lambda event: None,
    )
    return made[0][0]


def test_the_last_fenced_block_is_the_code() -> None:
    assert extracted("so:\n```python\na\n```\nno:\n```\nb\n```\ndone", "code") == "b\n"
    assert extracted(" plain ", "code") == "plain"
    assert extracted("```\na\n```", "text") == "```\na\n```"


# --- sql --------------------------------------------------------------------------------------

TABLES = "CREATE TABLE t (a INT, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'y');"


COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


def sql(query: str, wanted: str = "SELECT a FROM t", **params: Any) -> float:
    settings = {"schema": "ddl", "database": None, "of": "answer", "extract": "code"}
    limits = {"ordered": False, "timeout": 0.3}
    return one("sql", row(query, wanted, ddl=TABLES), **{**settings, **limits, **params})


@pytest.mark.parametrize(
    ("query", "score"),
    [
        ("SELECT a FROM t ORDER BY a DESC", 1.0),
        ("Here:\n```sql\nSELECT a * 1.0 FROM t\n```", 1.0),
        ("SELECT DISTINCT a FROM t", 0.0),
        ("SELECT CAST(a AS TEXT) FROM t", 0.0),
        ("SELECT nothing FROM t", 0.0),
        ("", 0.0),
        ("DELETE FROM t; SELECT a FROM t", 0.0),
        ("DROP TABLE t", 0.0),
        ("ATTACH '/tmp/other.db' AS o", 0.0),
        ("PRAGMA journal_mode = OFF", 0.0),
        ("SELECT load_extension('x')", 0.0),
        ("SELECT randomblob(100000000) FROM t", 0.0),
        (f"{COUNT} SELECT i FROM n", 0.0),
        (f"{COUNT} SELECT max(i) FROM n", 0.0),
    ],
)  # fmt: skip
def test_a_query_is_right_when_its_rows_are(query: str, score: float) -> None:
    start = time.monotonic()
    assert sql(query) == score
    assert time.monotonic() - start < 3


def test_order_counts_where_it_is_asked_for() -> None:
    wanted = "SELECT a FROM t ORDER BY a"
    assert sql("SELECT a FROM t ORDER BY a", wanted, ordered=True) == 1.0
    assert sql("SELECT a FROM t ORDER BY a DESC", wanted, ordered=True) == 0.0


def test_a_database_file_is_read_and_never_changed(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as database:
        database.executescript(TABLES)
    before = (tmp_path / "shop.sqlite").read_bytes()
    known = {"schema": None, "database": "shop.sqlite", "of": "answer", "extract": "code"}
    how = {**known, "ordered": False, "timeout": 1.0}
    assert one("sql", row("SELECT a FROM t", "SELECT a FROM t"), tmp_path, **how) == 1.0
    assert one("sql", row("DELETE FROM t", "SELECT a FROM t"), tmp_path, **how) == 0.0
    assert (tmp_path / "shop.sqlite").read_bytes() == before


def test_a_reference_query_that_fails_is_the_datas_fault() -> None:
    with pytest.raises(StageError, match="no such column"):
        sql("SELECT a FROM t", "SELECT z FROM t")


# --- json_schema ------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"a": 1}', 1.0),
        ('{"a": "1"}', 0.0),
        ('{"b": 1}', 0.0),
        ("{'a': 1}", 0.0),
        ('{"a": 1} done', 0.0),
        ('{"a": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_that_a_schema_allows(text: str, score: float, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SCHEMA))
    for schema in (json.dumps(SCHEMA), "a.json"):
        assert one("json_schema", row(text), tmp_path, schema=schema, extract="text") == score


def test_a_schema_that_is_none_is_told_and_addresses_are_not_followed() -> None:
    with pytest.raises(StageError, match="the schema of `json_schema`"):
        one("json_schema", row("{}"), schema='{"type": "thing"}', extract="text")
    with pytest.raises(StageError, match="Unresolvable"):
        one("json_schema", row("1"), schema='{"$ref": "http://127.0.0.1:9/s"}', extract="text")


# --- math -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("so $\\frac{1}{2}$", "0.5", 1.0),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", 1.0),
        ("the answer is 4", "$4$", 1.0),
        ("5", "4", 0.0),
        ("no idea", "4", 0.0),
    ],
)
def test_equal_mathematics(text: str, answer: str, score: float) -> None:
    pytest.importorskip("math_verify")
    assert one("math", row(text, answer), of="answer") == score


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(StageError, match="math-verify") as caught:
        one("math", row("4"), of="answer")
    assert "pip install" in (caught.value.hint or "")


# --- classifier -------------------------------------------------------------------------------


def make_classifier(folder: Path, labels: int) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    from grape.runtime.verbs.fresh import train_tokenizer

    tokenizer: Any = train_tokenizer(iter(["some text"]), 260)
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape["num_labels"] = labels
    config = LlamaConfig(vocab_size=len(tokenizer), intermediate_size=16, **shape)
    torch.manual_seed(0)
    build: Any = AutoModelForSequenceClassification.from_config
    model = build(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


def test_a_reward_model_reads_with_its_own_tokenizer(tmp_path: Path) -> None:
    import torch

    model, tokenizer = make_classifier(tmp_path / "rm", 1)
    how = {"source": "rm", "label": None, "reads": "both", "squash": False}
    made = one("classifier", row("done"), tmp_path, **how)
    with torch.no_grad():
        expected = model(**tokenizer("Taskdone", return_tensors="pt")).logits[0, 0]
    assert made == pytest.approx(float(expected), abs=1e-5)
    squashed = one("classifier", row("done"), tmp_path, **{**how, "squash": True})
    assert squashed == pytest.approx(float(expected.sigmoid()), abs=1e-5)


def test_a_label_has_a_probability_and_an_unknown_one_is_told(tmp_path: Path) -> None:
    make_classifier(tmp_path / "kinds", 3)
    how = {"source": "kinds", "reads": "completion", "squash": False}
    shares = [one("classifier", row("done"), tmp_path, label=f"LABEL_{n}", **how) for n in range(3)]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    with pytest.raises(StageError, match="names none of them"):
        one("classifier", row("done"), tmp_path, label="kind", **how)


def test_a_model_without_a_head_is_no_classifier(tmp_path: Path) -> None:
    from grape.runtime.verbs.fresh import new_model, train_tokenizer

    settings = {
        "architecture": "llama", "layers": 1, "hidden": 16, "heads": 2, "kv_heads": None,
        "intermediate": None, "context": 64,
    }  # fmt: skip
    new_model(settings, train_tokenizer(iter(["a"]), 260), seed=1).save(_made(tmp_path / "lm"))
    how = {"source": "lm", "label": None, "reads": "both", "squash": False}
    with pytest.raises(StageError, match="no classifier"):
        one("classifier", row("done"), tmp_path, **how)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# --- unit_tests -------------------------------------------------------------------------------

TESTS: dict[str, Any] = {
    "of": "tests", "extract": "code", "partial": False, "timeout": 3.0,
    "memory": 256 * 1024**2, "sandbox": "namespaces",
}  # fmt: skip


def has_namespaces() -> bool:
    try:
        run_program("", "", Limits(3.0, 256 * 1024**2), "namespaces")
    except NoSandbox:
        return False
    return True


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="no user namespaces here")
ADD = "def add(a, b):\n    return a + b\n"


@needs_namespaces
@pytest.mark.parametrize(
    ("program", "tests", "score"),
    [
        (ADD, "assert add(1, 2) == 3", 1.0),
        (f"Sure:\n```python\n{ADD}```", "assert add(1, 2) == 3", 1.0),
        ("def add(a, b): return a", "assert add(1, 2) == 3", 0.0),
        ("import sys; sys.exit(0)", "assert add(1, 2) == 3", 0.0),
        ("import os; os._exit(0)", "assert add(1, 2) == 3", 0.0),
        ("import os; os._exit(97)", "assert False", 0.0),
        ("def add(:", "assert True", 0.0),
        ("\0", "assert True", 0.0),
        ("print(int(input()) + 1)", {"input": "3\n", "output": "4"}, 1.0),
        ("print(4)\nexit(1)", {"input": "3\n", "output": "4"}, 0.0),
        (ADD, '["assert add(1, 2) == 3", "assert add(0, 0) == 0"]', 1.0),
    ],
)  # fmt: skip
def test_a_program_passes_its_tests_or_does_not(program: str, tests: Any, score: float) -> None:
    assert one("unit_tests", row(program, tests=tests), **TESTS) == score


@needs_namespaces
def test_the_share_of_tests_that_pass() -> None:
    tests = ["assert add(1, 2) == 3", "assert add(1, 2) == 4"]
    assert one("unit_tests", row(ADD, tests=tests), **{**TESTS, "partial": True}) == 0.5
    assert one("unit_tests", row(ADD, tests=tests), **TESTS) == 0.0


def test_a_row_without_tests_is_told() -> None:
    with pytest.raises(StageError, match="holds no tests"):
        one("unit_tests", row(ADD), **TESTS)


def test_without_namespaces_nothing_runs_unless_the_file_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(program: str, stdin: str, limits: Limits, mode: str) -> Ended:
        if mode == "namespaces":
            raise NoSandbox("Operation not permitted (a user namespace)")
        return run_program(program, stdin, limits, mode)

    monkeypatch.setattr("grape.runtime.rewards.unit_tests.run_program", refused)
    good = row(ADD, tests="assert add(1, 2) == 3")
    with pytest.raises(StageError, match="cannot be run safely") as caught:
        one("unit_tests", good, **TESTS)
    assert 'sandbox = "process"' in (caught.value.hint or "")
    assert one("unit_tests", good, **{**TESTS, "sandbox": "process"}) == 1.0


# --- the sandbox ------------------------------------------------------------------------------


def run(program: str, mode: str = "namespaces", seconds: float = 3.0) -> Ended:
    return run_program(program, "", Limits(seconds, 256 * 1024**2), mode)


LIBC = "import ctypes\nlibc = ctypes.CDLL(None)\n"


@needs_namespaces
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import socket; socket.create_connection(('1.1.1.1', 53), 1)", "unreachable"),
        ("open('/usr/lib/grape', 'w')", "Read-only file system"),
        ("open('/grape', 'w')", "Read-only file system"),
        ("open('/etc/passwd').read()", "No such file"),
        ("f = open('a', 'w')\nwhile True: f.write('x' * 10**6)", "File too large"),
        ("x = bytearray(2 * 1024**3)", "MemoryError"),
        (f"{LIBC}assert libc.mount(b'none', b'/work', b'tmpfs', 0, b'') == 0", "AssertionError"),
        (f"{LIBC}assert libc.mount(b'', b'/usr', b'', 32 | 4096, b'') == 0", "AssertionError"),
    ],
)
def test_what_a_program_cannot_do(program: str, reason: str) -> None:
    ended = run(program)
    assert ended.code == 1 and reason in ended.errors


@needs_namespaces
def test_a_program_sees_no_project_no_environment_and_no_other_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    here = Path(__file__).resolve()
    ended = run(
        "import os\n"
        f"print(os.path.exists({str(here)!r}), sorted(os.environ), os.getpid() < 10)\n"
        "print(os.listdir('/work'), os.path.exists('/home'), os.path.exists('/proc/1'))\n"
    )
    assert ended.code == 0
    assert "False ['LANG'" in ended.output and "True\n['program.py'] False False" in ended.output


@needs_namespaces
def test_a_fork_bomb_stops_at_the_limit_and_leaves_nothing() -> None:
    start = time.monotonic()
    ended = run("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", seconds=1.0)
    assert ended.code is None and time.monotonic() - start < 6
    assert "program.py" not in _processes()


@needs_namespaces
def test_a_child_that_hides_dies_with_its_program() -> None:
    program = "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(30)\nprint('done')"
    assert run(program).output == "done\n"
    assert "program.py" not in _processes()


def _processes() -> str:
    return subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True).stdout


@pytest.mark.parametrize("mode", ["process", pytest.param("namespaces", marks=needs_namespaces)])
def test_an_endless_loop_is_late_in_both_modes(mode: str) -> None:
    start = time.monotonic()
    assert run("while True: pass", mode, seconds=0.5).code is None
    assert time.monotonic() - start < 4


def test_the_launcher_says_why_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_pythons", lambda: ["/no/such/folder"])
    with pytest.raises(NoSandbox, match="folder"):
        run("print(1)")
