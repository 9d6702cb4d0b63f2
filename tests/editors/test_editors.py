"""What editors colour comes from the grammar, and the extension's package is complete."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from pygments.token import Error

from grape.dsl.build import UNITS
from grape.dsl.highlight import GrapeLexer
from grape.dsl.words import words

ROOT = Path(__file__).parents[2]
EDITORS = ROOT / "pipelines" / "editors"
VSCODE = EDITORS / "vscode"
PIPELINES = sorted(
    path for path in (ROOT / "pipelines").rglob("*.grape") if "node_modules" not in path.parts
)


def textmate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("textmate", EDITORS / "textmate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_textmate_grammar_is_the_one_the_language_gives() -> None:
    """When this fails: `python pipelines/editors/textmate.py`."""
    assert textmate().PLACE.read_text(encoding="utf-8") == textmate().text()


def test_every_word_of_the_grammar_is_coloured() -> None:
    terminals = (ROOT / "dsl" / "grammar.lark").read_text(encoding="utf-8")
    quoted = set(re.findall(r'"([a-z]+)"', terminals))
    assert quoted <= words().keywords
    shown = textmate().text()
    assert all(re.search(rf"\b{word}\b", shown) for word in quoted)
    assert all(re.escape(unit) in shown for unit in UNITS)


def test_every_pattern_is_a_regular_expression() -> None:
    found = re.findall(r'"(?:match|begin|end)": ("(?:[^"\\]|\\.)*")', textmate().text())
    assert len(found) > 20
    for pattern in found:
        re.compile(json.loads(pattern))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_pygments_reads_every_pipeline_and_loses_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lexer = GrapeLexer(stripnl=False, ensurenl=False)
    tokens = list(lexer.get_tokens(text))
    assert "".join(value for _, value in tokens) == text
    assert [value for kind, value in tokens if kind in Error] == []


@pytest.mark.parametrize("text", ['a = "open\nb = 1', '"""\n{a} " \\q', "5kk §", 'r"\\n" {{', ""])
def test_pygments_loses_nothing_of_a_broken_text(text: str) -> None:
    lexer = GrapeLexer(stripnl=False, ensurenl=False)
    assert "".join(value for _, value in lexer.get_tokens(text)) == text


def test_the_lexer_is_registered() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["grape"].partition(":")
    assert getattr(importlib.import_module(module), name) is GrapeLexer


def test_the_extension_names_only_files_that_are_there() -> None:
    package = json.loads((VSCODE / "package.json").read_text(encoding="utf-8"))
    (language,) = package["contributes"]["languages"]
    (grammar,) = package["contributes"]["grammars"]
    assert language["id"] == grammar["language"] == "grape"
    for name in (language["configuration"], grammar["path"], "README.md", "src/extension.js"):
        assert (VSCODE / name).is_file()
    configuration = json.loads((VSCODE / language["configuration"]).read_text(encoding="utf-8"))
    assert configuration["comments"] == {"lineComment": "#"}
    assert package["license"] == "Apache-2.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert package["version"] == project["version"]
