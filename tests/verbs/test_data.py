"""Data sources: templates, types, splits, ids, and every message about a bad file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.plan import PlannedStage
from grape.runtime.artifacts import Data
from grape.runtime.context import Context
from grape.runtime.errors import StageError
from grape.runtime.verbs import data

DEFAULTS: dict[str, Any] = dict.fromkeys(
    ("prompt", "completion", "chosen", "rejected", "answer", "messages", "desirable", "split",
     "limit")
)  # fmt: skip


def load(folder: Path, verb: str, path: str, content: str | bytes | None, **more: Any) -> Data:
    if content is not None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / path).write_bytes(raw)
    settings = {**DEFAULTS, "seed": 0, "path": path, **more}
    stage = PlannedStage(name="d", verb=verb, type="Data", inputs={}, settings=settings)
    return data.run(Context(stage, folder, folder, lambda event: None), {})


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


SUMS = lines(*({"a": a, "b": b, "sum": a + b} for a in range(5) for b in range(4)))


def test_templates_fill_the_parts(tmp_path: Path) -> None:
    made = load(tmp_path, "jsonl", "d.jsonl", SUMS, prompt="{{{a}}} + {b} =", answer="{sum}")
    assert made.items[5].prompt == "{1} + 1 ="
    assert made.items[5].answer == "2"
    assert made.items[5].columns == {"a": 1, "b": 1, "sum": 2}
    assert made.views == {"train": list(range(20))}


def test_a_column_of_the_same_name_needs_no_template(tmp_path: Path) -> None:
    made = load(tmp_path, "jsonl", "d.jsonl", lines({"prompt": "p", "answer": 4}))
    assert (made.items[0].prompt, made.items[0].answer) == ("p", "4")


def test_a_prompt_never_lies_on_both_sides(tmp_path: Path) -> None:
    rows = lines(*({"q": i % 10, "k": i} for i in range(40)))
    made = load(tmp_path, "jsonl", "d.jsonl", rows, prompt="{q}", split=0.7)
    train = {item.prompt for item in made.view("train")}
    test = {item.prompt for item in made.view("test")}
    assert not train & test
    assert (len(train), len(test)) == (7, 3)
    assert len(made.view("train")) + len(made.view("test")) == 40


def test_a_split_ignores_order_and_follows_the_seed(tmp_path: Path) -> None:
    def prompts(content: str, seed: int) -> set[str | None]:
        made = load(tmp_path, "jsonl", "d.jsonl", content, prompt="{a}+{b}", split=0.5, seed=seed)
        return {item.prompt for item in made.view("train")}

    turned = "".join(reversed(SUMS.splitlines(keepends=True)))
    assert prompts(SUMS, 1) == prompts(turned, 1)
    assert prompts(SUMS, 1) != prompts(SUMS, 2)


def test_ids_are_digests_of_the_content(tmp_path: Path) -> None:
    first = load(tmp_path, "jsonl", "d.jsonl", SUMS, prompt="{a}").items
    turned = "".join(reversed(SUMS.splitlines(keepends=True)))
    second = load(tmp_path, "jsonl", "d.jsonl", turned, prompt="{a}").items
    assert [item.id for item in first] == [item.id for item in reversed(second)]
    twice = load(tmp_path, "jsonl", "d.jsonl", lines({"a": 1}, {"a": 1}), prompt="{a}").items
    assert twice[1].id == twice[0].id + "-2"


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    broken_later = SUMS + "{not json"
    made = load(tmp_path, "jsonl", "d.jsonl", broken_later, prompt="{a}", limit=3)
    assert len(made.items) == 3


def test_messages_and_desirable_keep_their_type(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = lines({"chat": turns, "ok": 1}, {"chat": json.dumps(turns), "ok": "no"})
    made = load(tmp_path, "jsonl", "d.jsonl", rows, messages="{chat}", desirable="{ok}")
    assert made.items[0].messages == made.items[1].messages == turns
    assert [item.desirable for item in made.items] == [True, False]


def test_csv(tmp_path: Path) -> None:
    content = '\ufeffq,a\r\n"1,000 + ""x""",5\r\n\r\ntwo,6\r\n'
    made = load(tmp_path, "csv", "d.csv", content, prompt="{q}", answer="{a}")
    assert [item.prompt for item in made.items] == ['1,000 + "x"', "two"]


def test_parquet(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"q": ["x", "y"], "n": [1, 2], "day": [datetime.date(2024, 1, 2)] * 2})
    pq.write_table(table, tmp_path / "d.parquet")
    made = load(tmp_path, "parquet", "d.parquet", None, prompt="{q}{n}")
    assert [item.prompt for item in made.items] == ["x1", "y2"]
    assert made.items[0].columns["day"] == "2024-01-02"


@pytest.mark.parametrize(
    ("verb", "content", "settings", "message"),
    [
        ("jsonl", "", {}, "has no rows"),
        ("jsonl", '{"a": 1}\n{"a": }\n', {}, r"line 2, column 7 is not valid JSON: expecting"),
        ("jsonl", '{"a": 1}\n[1]\n', {}, "line 2 is a list, not an object"),
        ("jsonl", '{"a": 1}\n5\n', {}, "line 2 is a number, not an object"),
        ("jsonl", b'{"a": 1}\n{"a": "\xff"}\n', {}, "line 2 is not UTF-8 text .byte 0xff"),
        ("jsonl", '{"answr": 1}\n', {"answer": "{answer}"},
         "line 1 has no column `answer`, which the template of `answer` names; "
         "did you mean `answr`"),
        ("jsonl", '{"a": null}\n', {"prompt": "{a}"}, "line 1 has no value in column `a`"),
        ("jsonl", '{"a": 1}\n', {"prompt": "{a"}, "a `{` that names no column"),
        ("jsonl", '{"a": 1}\n', {"messages": "x{a}"}, "must be one column and nothing else"),
        ("jsonl", '{"a": 1}\n', {"messages": "{a}"}, "column `a` holds no conversation"),
        ("jsonl", '{"a": "maybe"}\n', {"desirable": "{a}"}, "neither true nor false"),
        ("jsonl", '{"a": 1}\n', {"prompt": "{a}", "split": 0.5}, "leaves `.train` empty"),
        ("csv", "a,b\n1\n", {}, "line 2 has 1 values, but the header names 2"),
        ("csv", "a,a\n1,2\n", {}, "names the column `a` twice"),
        ("csv", 'a\n"x', {}, "is not valid CSV"),
        ("csv", "", {}, "has no rows"),
        ("parquet", "no parquet", {}, "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_with_its_place(
    tmp_path: Path, verb: str, content: str | bytes, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        load(tmp_path, verb, "d.txt", content, **settings)


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(SUMS)
    with pytest.raises(StageError, match=r"no file `sum\.jsonl`; did you mean `sums\.jsonl`"):
        load(tmp_path, "jsonl", "sum.jsonl", None)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StageError, match="`folder` is a folder"):
        load(tmp_path, "jsonl", "folder", None)


def environment(name: str, folder: Path, **options: Any) -> Data:
    return load(
        folder, "environment", "none", None, name=name, options=options, size=6,
        prompt="{question}", answer="{answer}", split=0.5,
    )  # fmt: skip


def test_an_environment_makes_its_items(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    made = environment("reasoning_gym:chain_sum", tmp_path, min_terms=2, max_terms=2)
    assert len(made.items) == 6
    assert made.items[2].columns["index"] == 2
    assert made.environment == {
        "name": "reasoning_gym:chain_sum",
        "options": {"min_terms": 2, "max_terms": 2},
        "size": 6,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chain_sums", {}, "has no task `chain_sums`; did you mean `chain_sum`"),
        ("chain_sum", {"min_term": 2}, "no option `min_term`; did you mean `min_terms`"),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, "refuses its options"),
    ],
)
def test_a_wrong_environment_is_told(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(StageError, match=message):
        environment(f"reasoning_gym:{name}", tmp_path, **options)


def test_without_reasoning_gym_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(StageError, match="needs the package reasoning-gym"):
        environment("reasoning_gym:chain_sum", tmp_path)
