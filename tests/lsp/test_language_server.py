"""`grape lsp`, driven as an editor drives it: every feature over real pipes."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location(
    "grape_lsp_client", Path(__file__).with_name("client.py")
)
assert _SPEC and _SPEC.loader
client_module = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = client_module
_SPEC.loader.exec_module(client_module)
Client, Refused, applied = client_module.Client, client_module.Refused, client_module.applied

REWARDS = """grape 1

## Right answer: the number that ends the completion.
reward right(brevity: float = 0.1) = exact(extract = "number") + brevity * within(16)
"""
MAIN = """grape 1

use sft, grpo from "std/algorithms"
use right from "./rewards.grape"

## Learns additions. 🍇
pipeline adder(seed: int = 7, rounds: int = 4) {
  data sums = jsonl("data/sums.jsonl") {
    prompt = "{a} + {b} ="
    completion = " {sum}"
    answer = "{sum}"
    split = 60%
  }
  model base = fresh("llama", sums)
  ## Imitation.
  stage warm = train(base, sums.train) { algorithm = sft(), lr = 1e-4 }
  repeat rounds with policy = warm {
    stage tries = sample(policy, sums.train) { prompts = 8, group = 4, max_tokens = 8 }
    stage scored = score(tries, right(brevity = 0.2))
    next policy = train(policy, scored) { algorithm = grpo(beta = 0.02), lr = 1e-5 }
  }
  stage before = evaluate(warm, sums.test, right()) { max_tokens = 8 }
  stage after = evaluate(policy, sums.test, right()) { max_tokens = 8 }
  check after.mean > before.mean with 95%
  output policy as "models/adder"
}

algorithm mine(clip: float = 0.2) on Rollouts {
  let ratio = exp(logp - old_logp)
  maximize mean(clamp(ratio, 1 - clip, 1 + clip) * reward per batch)
}
"""


def write_project(root: Path) -> Path:
    (root / "data").mkdir()
    shutil.copy(ROOT / "pipelines" / "tiny" / "data" / "sums.jsonl", root / "data")
    (root / "rewards.grape").write_text(REWARDS)
    (root / "main.grape").write_text(MAIN)
    return root


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with Client(write_project(tmp_path_factory.mktemp("project").resolve())) as client:
        yield client
        assert client.stderr == []


@pytest.fixture
def editor(shared: Any) -> Any:
    """A client with the file as it is on the disk."""
    shared.open("main.grape", MAIN)
    return shared


def hover(editor: Any, mark: str, inside: int = 1, text: str = MAIN) -> str:
    found = editor.ask("hover", "main.grape", text, mark, inside)
    return str(found["contents"]["value"]) if found else ""


def test_findings_come_while_typing_with_places_in_utf16(editor: Any) -> None:
    assert editor.open("main.grape", MAIN) == []
    text = MAIN.replace('prompt = "{a}', 'lmit = "🍇🍇", prompt = "{a}')
    (found,) = editor.change("main.grape", text)
    assert found["code"] == "G109" and found["source"] == "grape"
    text = MAIN.replace('as "models/adder"', 'as "🍇🍇", extra')
    (found,) = editor.change("main.grape", text)
    line = text.split("\n")[found["range"]["start"]["line"]]
    units = line[: line.index("extra")].encode("utf-16-le")
    assert found["range"]["start"]["character"] <= len(units) // 2
    assert found["range"]["end"]["character"] <= len(line.encode("utf-16-le")) // 2
    assert editor.change("main.grape", MAIN) == []


@pytest.mark.parametrize(("encoding", "column"), [("utf-16", 29), ("utf-8", 33), ("utf-32", 27)])
def test_columns_count_what_the_client_asked_for(
    tmp_path: Path, encoding: str, column: int
) -> None:
    text = 'grape 1\n\nreward r() = regex("🍇🍇") + nothing()\n'
    with Client(tmp_path.resolve(), [encoding]) as client:
        assert client.capabilities["positionEncoding"] == encoding
        found = client.open("a.grape", text)
    starts = {item["range"]["start"]["character"] for item in found}
    assert starts == {column}


def test_a_finding_names_the_other_place(editor: Any) -> None:
    text = MAIN.replace("score(tries,", "score(warm,")
    (found,) = editor.change("main.grape", text)
    (label,) = found["relatedInformation"]
    assert label["location"]["uri"] == editor.uri("main.grape") and "warm" in label["message"]


def test_an_open_buffer_stands_before_the_disk_for_importers_too(editor: Any) -> None:
    editor.open("rewards.grape", REWARDS)
    uri = editor.uri("main.grape")
    editor.change("rewards.grape", REWARDS.replace("right(", "correct("))
    deadline = time.monotonic() + 10
    while not editor.diagnostics[uri] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {item["code"] for item in editor.diagnostics[uri]} == {"G103"}
    editor.change("rewards.grape", REWARDS)
    while editor.diagnostics[uri] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert editor.diagnostics[uri] == []
    editor.notify("textDocument/didClose", {"textDocument": {"uri": editor.uri("rewards.grape")}})


def test_hover_says_types_meanings_and_mathematics(editor: Any) -> None:
    assert "**Model**" in hover(editor, "warm = train") and "Imitation." in hover(editor, "warm =")
    assert "**scored Rollouts**" in hover(editor, "scored) {")
    assert "Peak learning rate." in hover(editor, "lr = 1e-4") and "`1e-05`" in hover(
        editor, "lr ="
    )
    assert "`model`: Model" in hover(editor, "train(base")
    math = hover(editor, "grpo(beta")
    assert "log π_old" in math and "std/algorithms" in math
    assert "float = 0.0" in hover(editor, "beta = 0.02")
    assert "Right answer" in hover(editor, "right()) {")
    assert "the fraction 0.6" in hover(editor, "60%")
    assert "a value per token" in hover(editor, "old_logp")
    assert "value by value" in hover(editor, "exp(logp")
    assert hover(editor, "  output policy", 4) == ""


def test_completion_knows_the_place(editor: Any) -> None:
    def labels(mark: str, inside: int = 0, text: str = MAIN) -> list[str]:
        editor.change("main.grape", text)
        return list(editor.labels("main.grape", text, mark, inside))

    inside = labels("tries, right")
    assert {"tries", "sums", "policy", "warm", "right", "exact"} <= set(inside)
    assert "tries" not in labels("warm, sums.test")  # not visible outside its repeat
    verbs = labels("= train(base", 2)
    assert "train" in verbs and "jsonl" not in verbs
    settings = labels("lr = 1e-4")
    assert {"epochs", "lr"} <= set(settings) and "algorithm" not in settings
    values = MAIN.replace("lr = 1e-4", "schedule = ")
    assert '"cosine"' in labels("schedule = ", 11, values)
    assert labels("{a}", 1) == ["a", "b", "sum"]
    assert labels("sums.train", 5) == ["train", "test"]
    assert "mean" in labels("after.mean", 6)
    assert {"grpo", "sft", "dpo"} <= set(labels("= sft()", 2))
    assert {"std/algorithms", "./rewards.grape"} <= set(labels('"./rewards', 1))
    assert "data/sums.jsonl" in labels('"data/sums', 1)
    assert {"logp", "ratio", "clip", "mean"} <= set(labels("clamp(ratio", 6))
    assert "ratio" not in labels("logp - old", 0)
    assert "group" in labels("per batch", 4)
    assert "pipeline" in labels("algorithm mine")
    assert "beta" in labels("beta = 0.02")
    assert labels('right from "./', 0) == ["right"]
    assert "dpo" in labels("sft, grpo from", 0)
    assert labels("## Imit", 4) == []


def test_completing_a_library_algorithm_adds_its_import(editor: Any) -> None:
    found = editor.ask("completion", "main.grape", MAIN, "= sft()", 2)
    (dpo,) = (item for item in found["items"] if item["label"] == "dpo")
    assert "use sft, grpo, dpo from" in applied(MAIN, dpo["additionalTextEdits"])


def test_definition_leads_across_files(editor: Any) -> None:
    found = editor.ask("definition", "main.grape", MAIN, "right()) {", 1)
    assert found["uri"] == editor.uri("rewards.grape") and found["range"]["start"]["line"] == 3
    found = editor.ask("definition", "main.grape", MAIN, "grpo(beta", 1)
    assert found["uri"].endswith("std/algorithms/grpo.grape")
    found = editor.ask("definition", "main.grape", MAIN, "policy, scored", 1)
    assert found["uri"] == editor.uri("main.grape")
    assert found["range"]["start"] == {"line": 16, "character": 21}


def test_references_and_highlights(editor: Any) -> None:
    context = {"includeDeclaration": True}
    found = editor.ask("references", "main.grape", MAIN, "right()) {", 1, context=context)
    files = [item["uri"].rpartition("/")[2] for item in found]
    assert sorted(files) == ["main.grape"] * 4 + ["rewards.grape"]
    marks = editor.ask("documentHighlight", "main.grape", MAIN, "policy, scored", 1)
    assert sorted(mark["kind"] for mark in marks) == [2, 2, 2, 2, 2, 3]


def test_rename_reaches_every_file(editor: Any) -> None:
    assert editor.ask("prepareRename", "main.grape", MAIN, "right()) {", 1)["start"]["line"] == 21
    edit = editor.ask("rename", "main.grape", MAIN, "right()) {", 1, newName="correct")
    changes = {uri.rpartition("/")[2]: edits for uri, edits in edit["changes"].items()}
    assert applied(REWARDS, changes["rewards.grape"]) == REWARDS.replace("right(", "correct(")
    renamed = applied(MAIN, changes["main.grape"])
    assert renamed == MAIN.replace("right", "correct")
    parameter = editor.ask("rename", "main.grape", MAIN, "brevity = 0.2", 1, newName="short")
    assert {uri.rpartition("/")[2] for uri in parameter["changes"]} == {
        "main.grape",
        "rewards.grape",
    }


@pytest.mark.parametrize(
    ("mark", "name", "reason"),
    [
        ("grpo(beta", "mine_too", "library"),
        ("train(base", "fit", "word of the language"),
        ("warm, sums", "before", "means something else"),
        ("warm, sums", "Warm", "is no name"),
        ("warm, sums", "stage", "word of the language"),
        ("seed: int", "start", "because of its name"),
        ("right()) {", "exact", "means something else"),
    ],
)
def test_a_rename_that_would_change_the_meaning_is_refused(
    editor: Any, mark: str, name: str, reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        editor.ask("rename", "main.grape", MAIN, mark, 1, newName=name)


def test_symbols_folds_colours_hints(editor: Any) -> None:
    document = {"textDocument": {"uri": editor.uri("main.grape")}}
    symbols = editor.request("textDocument/documentSymbol", document)
    assert [item["name"] for item in symbols] == ["adder", "mine"]
    inner = {item["name"]: item for item in symbols[0]["children"]}
    assert list(inner) == ["sums", "base", "warm", "policy", "before", "after"]
    assert [item["name"] for item in inner["policy"]["children"]] == ["tries", "scored"]
    folds = editor.request("textDocument/foldingRange", document)
    assert {"startLine": 6, "endLine": 24} in [
        {key: fold[key] for key in ("startLine", "endLine")} for fold in folds
    ]
    data = editor.request("textDocument/semanticTokens/full", document)["data"]
    assert len(data) % 5 == 0 and len(data) > 500
    legend = editor.capabilities["semanticTokensProvider"]["legend"]["tokenTypes"]
    assert legend[data[3]] == "keyword" and data[:3] == [0, 0, 5]
    lines = MAIN.split("\n")
    line = column = 0
    for step, shift, length in zip(data[::5], data[1::5], data[2::5], strict=True):
        line, column = line + step, shift if step else column + shift
        assert column + length <= len(lines[line].encode("utf-16-le")) // 2
    whole = {"start": {"line": 0, "character": 0}, "end": {"line": 99, "character": 0}}
    hints = editor.request("textDocument/inlayHint", document | {"range": whole})
    assert ": scored Rollouts" in [hint["label"] for hint in hints]


def test_formatting_and_fixes(editor: Any) -> None:
    untidy = MAIN.replace("  model base", "       model   base")
    editor.change("main.grape", untidy)
    options = {"options": {"tabSize": 2, "insertSpaces": True}}
    edits = editor.ask("formatting", "main.grape", untidy, "grape", 0, **options)
    assert applied(untidy, edits) == MAIN
    wrong = MAIN.replace("lr = 1e-4", "lrr = 1e-4")
    (found,) = editor.change("main.grape", wrong)
    document = {"textDocument": {"uri": editor.uri("main.grape")}}
    context = {"range": found["range"], "context": {"diagnostics": [found]}}
    (action,) = editor.request("textDocument/codeAction", document | context)
    assert action["kind"] == "quickfix" and action["diagnostics"][0]["code"] == "G109"
    (edits,) = action["edit"]["changes"].values()
    assert applied(wrong, edits) == MAIN


def test_signature_help_follows_the_argument(editor: Any) -> None:
    found = editor.ask("signatureHelp", "main.grape", MAIN, "sums.train) {", 2)
    assert found["signatures"][0]["label"].startswith("train(model: Model, data:")
    assert found["activeParameter"] == 1
    found = editor.ask("signatureHelp", "main.grape", MAIN, "beta = 0.02", 8)
    assert found["activeParameter"] == 1  # clip, beta, eps


def test_a_failing_handler_is_answered_and_the_server_goes_on(editor: Any) -> None:
    nowhere = {"textDocument": {"uri": "file:///no/such/file.grape"}}
    position = {"position": {"line": 0, "character": 0}}
    with pytest.raises(Refused):
        editor.request("textDocument/hover", nowhere | position)
    with pytest.raises(Refused):
        editor.request("textDocument/hover", {"textDocument": {"uri": "untitled:1"}} | position)
    assert "**Model**" in hover(editor, "warm =")


BROKEN = """
from grape.compiler.semantics import GrapeAnalyser
from grape.dsl.lsp.server import serve

class Broken(GrapeAnalyser):
    def analyse(self, path, texts):
        if "fail" in texts[path]:
            raise RuntimeError("made to fail")
        return super().analyse(path, texts)

serve(Broken(), "0")
"""


def test_an_exception_is_logged_answered_and_survived(tmp_path: Path) -> None:
    with Client(tmp_path.resolve(), code=BROKEN) as client:
        assert client.open("a.grape", "grape 1\n") == []
        document = {"uri": client.uri("a.grape"), "version": 2}
        changes = {"textDocument": document, "contentChanges": [{"text": "grape 1\n# fail\n"}]}
        client.notify("textDocument/didChange", changes)
        with pytest.raises(Refused, match="made to fail"):
            client.ask("hover", "a.grape", "grape 1\n", "grape", 1)
        assert client.change("a.grape", "grape 1\n\n", version=3) == []
    assert any("made to fail" in line for line in client.stderr)


def test_every_prefix_of_a_program_is_answered(editor: Any) -> None:
    """Half-typed at each place: findings, completion, hover, colours and symbols still come."""
    for end in range(0, len(MAIN), 23):
        text = MAIN[:end]
        editor.change("main.grape", text, version=end + 3)
        line, column = text.count("\n"), len(text[text.rfind("\n") + 1 :].encode("utf-16-le")) // 2
        document = {"textDocument": {"uri": editor.uri("main.grape")}}
        place = document | {"position": {"line": line, "character": column}}
        for method in ("completion", "hover", "signatureHelp", "definition"):
            editor.request(f"textDocument/{method}", place)
        for method in ("documentSymbol", "foldingRange", "semanticTokens/full"):
            editor.request(f"textDocument/{method}", document)
    assert editor.change("main.grape", MAIN, version=9999) == []


def test_a_keystroke_is_answered_quickly(editor: Any) -> None:
    """`python tests/lsp/bench.py` prints the figure; the bound here allows for a busy machine."""
    text = long_file()
    assert text.count("\n") >= 300
    editor.open("long.grape", text)
    times = []
    for number in range(7):
        start = time.perf_counter()
        editor.change("long.grape", text + "#" * (number + 1), version=number + 2)
        times.append(time.perf_counter() - start)
    editor.notify("textDocument/didClose", {"textDocument": {"uri": editor.uri("long.grape")}})
    assert statistics.median(times) < 3.0


def long_file() -> str:
    """More than 300 lines: the pipeline of MAIN many times under other names."""
    head, _, rest = MAIN.partition("## Learns")
    body = rest.partition("\nalgorithm")[0]
    parts = ["## Learns" + body.replace("adder", f"adder_{number}") for number in range(15)]
    return head + "\n".join(parts)
