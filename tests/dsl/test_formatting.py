"""The formatter: idempotent, same syntax, every comment kept, also on broken files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape.dsl.format import format_text
from grape.dsl.parse import parse
from grape.dsl.source import Source

PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").rglob("*.grape"))
UGLY = """grape 1
reward   r( )=exact( extract="number" )+-1   # why
pipeline p(){
      # inside
  stage x=train(a,b){lr=1e-4,epochs=2}


  check x.mean>-1 with 95%
}
"""
PRETTY = """grape 1

reward r() = exact(extract = "number") + -1  # why

pipeline p() {
  # inside
  stage x = train(a, b) { lr = 1e-4, epochs = 2 }

  check x.mean > -1 with 95%
}
"""


def test_the_style() -> None:
    assert format_text(UGLY) == PRETTY


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_shipped_files_keep_their_syntax(path: Path) -> None:
    text = path.read_text()
    formatted = format_text(text)
    assert format_text(formatted) == formatted
    assert parse(Source("a", formatted))[0] == parse(Source("b", text))[0]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_is_lost_from_mutations(data: st.DataObject) -> None:
    text = PIPELINES[0].read_text()
    at = data.draw(st.integers(0, len(text)))
    text = (
        text[:at] + data.draw(st.sampled_from([" ", "# c\n", "{", "\n\n\n", ")", '"'])) + text[at:]
    )
    try:
        formatted = format_text(text)
    except ValueError:
        return
    assert re.sub(r"\s+", "", formatted) == re.sub(r"\s+", "", text)
    assert format_text(formatted) == formatted
