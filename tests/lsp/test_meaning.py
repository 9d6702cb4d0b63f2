"""The analyser that the server uses: names, types and completion over the whole language."""

from __future__ import annotations

from pathlib import Path

import pytest

from grape.compiler.callees import built_in, described
from grape.compiler.semantics import FileAnalysis, GrapeAnalyser
from grape.dsl.lsp import explain, names, outline
from grape.dsl.lsp.complete import complete
from grape.dsl.lsp.convert import Converter
from grape.dsl.lsp.project import Project
from grape.dsl.lsp.scan import scan

WHOLE = """grape 1

use sft, grpo from "std/algorithms"

reward right() = exact(extract = "number")

pipeline p(seed: int = 7, fast: bool = true, rates: [float] = [1e-5, 1e-4]) {
  data sums = jsonl("data/sums.jsonl") {
    prompt = "{a} + {b} =", completion = " {sum}", answer = "{sum}", split = 60%
  }
  model base = fresh("llama", sums)
  stage warm = train(base, sums.train) { algorithm = sft(), lr = 1e-4 }
  each rate in [1e-5, 1e-4] {
    stage tuned = train(warm, sums.train) { algorithm = sft(), lr = rate }
    stage seen = evaluate(tuned, sums.test, right()) { max_tokens = 8 }
  }
  if fast {
    stage extra = evaluate(warm, sums.test, right()) { max_tokens = 8 }
  } else {
    stage extra = evaluate(base, sums.test, right()) { max_tokens = 16 }
  }
  repeat 4 with policy = tuned["1e-5"] {
    stage tries = sample(policy, sums.train) { prompts = 8, group = 4, max_tokens = 8 }
    stage scored = score(tries, right())
    next policy = train(policy, scored) { algorithm = grpo(), lr = 1e-5 }
    every 2 {
      stage along = evaluate(policy, sums.test, right()) { max_tokens = 8 }
    }
    until along.mean > 0.5
  }
  check extra.mean > 0.1
  output policy as "models/adder"
}
"""


def analysed(folder: Path, text: str = WHOLE) -> FileAnalysis:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "sums.jsonl").write_text('{"a": 1, "b": 2, "sum": 3}\n')
    return GrapeAnalyser().analyse(folder / "main.grape", {folder / "main.grape": text})


def places(analysis: FileAnalysis, mark: str) -> list[int]:
    """Lines on which the name at a mark is named."""
    found = names.occurrence_at(analysis, analysis.source.text.index(mark) + 1)
    assert found
    same = [item for item in analysis.occurrences if item.symbol.key == found.symbol.key]
    return [item.span.line for item in same]


def test_names_are_followed_into_every_kind_of_block(tmp_path: Path) -> None:
    analysis = analysed(tmp_path)
    assert analysis.findings == []
    assert places(analysis, "rate in") == [13, 14]
    assert places(analysis, "tuned = train") == [14, 15, 22]
    assert places(analysis, "fast: bool") == [7, 17]
    assert places(analysis, "extra = evaluate(warm") == [18, 20, 31]
    assert places(analysis, "along.mean") == [27, 29]
    assert places(analysis, "policy = tuned") == [22, 23, 25, 25, 27, 32]


def test_types_are_known_in_every_kind_of_block(tmp_path: Path) -> None:
    types = {symbol.name: shown for symbol, shown in analysed(tmp_path).types()}
    assert types["tuned"] == "Model" and types["extra"] == types["along"] == "Report"
    assert types["sums"] == "Data (answer, completion, prompt), split"


def test_types_are_still_known_where_something_is_wrong(tmp_path: Path) -> None:
    text = WHOLE.replace("lr = 1e-4 }", "lr = nothing }")
    analysis = analysed(tmp_path, text)
    assert [finding.code for finding in analysis.findings] == ["G101"]
    types = {symbol.name: shown for symbol, shown in analysis.types()}
    whole = {symbol.name: shown for symbol, shown in analysed(tmp_path).types()}
    assert types == whole


def test_every_verb_setting_says_what_it_means(tmp_path: Path) -> None:
    analyser = GrapeAnalyser()
    for keyword in ("model", "data", "stage", "reward"):
        for callee in analyser.callees(keyword):
            assert callee.doc and callee.signature, callee.name
            for setting in callee.settings:
                assert setting.doc and setting.type, (callee.name, setting.name)
            assert callee.makes or keyword == "reward", callee.name


@pytest.mark.parametrize("step", range(4))
def test_every_prefix_is_answered(tmp_path: Path, step: int) -> None:
    convert, path = Converter(), tmp_path / "main.grape"
    project = Project(GrapeAnalyser())
    analyser = project.analyser
    for end in range(step * 5, len(WHOLE), 20):
        text = WHOLE[:end]
        analysis = analyser.analyse(path, {path: text})
        complete(project, analysis, convert, path, end)
        explain.hover(analyser, analysis, convert, end)
        explain.signature_help(analysis, text, end)
        outline.document_symbols(analysis, convert)
        outline.semantic_tokens(analysis, convert)
        outline.folding_ranges(text, convert)
        outline.inlay_hints(analysis, convert, 0, end)
        assert analysis.types() is not None


@pytest.mark.parametrize("text", [WHOLE, WHOLE[:700], 'a = r"""x\n{', ")]}", "\r\n\r#\u2028x\n"])
def test_scanning_loses_no_text(text: str) -> None:
    found = "".join(token.text for token in scan(text).tokens)
    assert "".join(found.split()) == "".join(text.split())


def test_renaming_is_checked_against_buffers_that_are_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "main.grape"
    project = Project(GrapeAnalyser())
    analysed(tmp_path)
    project.put(path, WHOLE)
    spans = names.rename(project, path, WHOLE.index("tuned = train") + 1, "learned")[path]
    assert [span.line for span in spans] == [14, 15, 22]
    with pytest.raises(names.CannotRename, match="means something else"):
        names.rename(project, path, WHOLE.index("rate in") + 1, "fast")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_go_there_and_back(encoding: str) -> None:
    convert = Converter(encoding)
    for text in ("a\u00e4\U0001f347b\r\nc\rd\n\n\u2028e", ""):
        for offset in range(len(text) + 1):
            place = convert.position(text, offset)
            if text[offset - 1 : offset + 1] != "\r\n":
                assert convert.offset(text, place) == offset


def test_turns_their_tools_and_engines_are_offered_and_explained() -> None:
    turns, python = built_in("turns"), built_in("python")
    assert turns is not None and python is not None
    assert "tool that it calls" in turns.doc
    known = {setting.name: setting for setting in turns.parameters}
    assert known["tools"].default is None and known["tools"].type == "a list of `python(…)`"
    assert '"stop"' in known["on_error"].values and all(one.doc for one in known.values())
    sample = {setting.name: setting for setting in described("sample").settings}
    following = {"probe()", "prefixes()", "module()"}
    assert {"tree()", "vine()", "turns()", *following} == set(sample["sampler"].values)
    assert sample["engine"].values == ('"transformers"', '"vllm"')
