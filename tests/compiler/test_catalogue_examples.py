"""Every finding's bad example gives its code, and every good one gives nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from grape.compiler.program import load
from grape.dsl.catalogue import codes, entry

FILE_NAMES = {"G105": "loop.grape"}
"""Examples that only go wrong under this name: a file that imports itself."""

PARAMS = {"G211": "seed = = 7\n"}
"""Examples about the parameters file beside them."""


def findings(tmp_path: Path, code: str, text: str, *, params: bool = False) -> list[str]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sums.jsonl").write_text('{"a": 1, "b": 2, "sum": 3}\n')
    file = tmp_path / FILE_NAMES.get(code, "file.grape")
    file.write_text(text)
    given = None
    if params:
        given = tmp_path / "params.toml"
        given.write_text(PARAMS[code])
    return [finding.code for finding in load(file, params_file=given).findings]


@pytest.mark.parametrize("code", codes())
def test_the_bad_example_gives_the_code(tmp_path: Path, code: str) -> None:
    assert code in findings(tmp_path, code, entry(code).bad, params=code in PARAMS)


@pytest.mark.parametrize("code", codes())
def test_the_good_example_is_clean(tmp_path: Path, code: str) -> None:
    assert findings(tmp_path, code, entry(code).good) == []
