"""A hostile file is checked, probed, planned and drawn: nothing runs, nothing outside is read.

Every opening of a file is heard by an audit hook; each case says which finding it gives.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.draw import FORMATS
from grape.compiler.program import Program, load
from grape.dsl.catalogue import entry
from grape.dsl.render import as_json, human
from grape.runtime.preparing import prepare
from grape.runtime.probe import lengths, probe

_heard: list[str] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _heard is None:
        return
    if event == "open" and isinstance(args[0], str):
        _heard.append(str(Path(args[0]).absolute()))
    if event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect"):
        _heard.append(f"!{event} {args[0]}")


sys.addaudithook(_hook)


@contextmanager
def listening() -> Iterator[list[str]]:
    global _heard
    _heard = []
    try:
        yield _heard
    finally:
        _heard = None


PIPELINE = """grape 1

use sft from "std/algorithms"
{head}
pipeline p() {{
  data sums = {data}
  model base = {model}
  stage warm = train(base, sums) {{ algorithm = sft() }}
  output warm as "{out}"
}}
"""
DATA = 'jsonl("data/sums.jsonl") { prompt = "{a} + {b} =", completion = " {sum}" }'
PLAIN = {"head": "", "data": DATA, "model": 'fresh("llama", sums)', "out": "models/warm"}


def pipeline(**changes: str) -> str:
    return PIPELINE.format(**{**PLAIN, **changes})


def data_at(path: str) -> str:
    return pipeline(data=f'jsonl("{path}") {{ prompt = "{{a}}", completion = "{{b}}" }}')


def model_at(source: str) -> str:
    return pipeline(model=f'pretrained("{source}")')


def reward_of(expression: str) -> str:
    return f"grape 1\n\nreward evil() = {expression}\n"


CASES: dict[str, tuple[str, str]] = {
    "absolute_data": (data_at("/etc/passwd"), "G710"),
    "climbing_data": (data_at("data/../../outside.jsonl"), "G710"),
    "linked_data": (data_at("data/link.jsonl"), "G710"),
    "linked_folder": (data_at("elsewhere/outside.jsonl"), "G710"),
    "zero_in_path": (data_at(r"data/\0.jsonl"), "G710"),
    "endless_path": (data_at("a/" * 50_000), "G710"),
    "absolute_model": (model_at("/etc"), "G711"),
    "linked_model": (model_at("elsewhere"), "G711"),
    "climbing_package": (model_at("package:grape/../../../../etc/passwd"), "G711"),
    "dotted_package": (model_at("package:os.path/x"), "G111"),
    "tokenizer_outside": (
        pipeline(model='fresh("llama", sums) { tokenizer = "../other" }'),
        "G711",
    ),
    "output_outside": (pipeline(out="../../warm"), "G712"),
    "output_is_project": (pipeline(out="a/.."), "G712"),
    "absolute_output": (pipeline(out="/tmp/warm"), "G712"),
    "climbing_import": ('grape 1\n\nuse a from "./../../outside.grape"\n', "G701"),
    "linked_import": ('grape 1\n\nuse a from "./link.grape"\n', "G701"),
    "std_import": ('grape 1\n\nuse passwd from "std/../../../../../../etc"\n', "G701"),
    "zero_in_import": ('grape 1\n\nuse a from "./\\0"\n', "G104"),
    "deep_imports": ('grape 1\n\nuse a0 from "./chain/c0.grape"\n', "G713"),
    "import_of_itself": ('grape 1\n\nuse a from "./file.grape"\n', "G105"),
    "reward_outside": (reward_of('python("../outside.py:evil")'), "G702"),
    "linked_reward": (reward_of('python("link.py:evil")'), "G702"),
    "loud_reward": (
        pipeline(head='reward evil() = python("loud.py:short")').replace(
            "  output", "  stage seen = evaluate(warm, sums, evil())\n  output"
        ),
        "G716",
    ),
    "remote_code": (
        model_at("hf:org/name@1").replace('@1")', '@1") { trust_remote_code = true }'),
        "G714",
    ),
    "many_digits": (reward_of(f"within({'9' * 10_000_000})"), "G004"),
    "tower_of_powers": ("grape 1\n\npipeline p(a: int = 9^9^9^9) {\n}\n", "G205"),
    "tower_in_formula": (
        "grape 1\n\nalgorithm a() on Demos {\n  minimize mean(logp * 9^9^9^9 per batch)\n}\n",
        "G310",
    ),
    "deep_brackets": (reward_of("(" * 200_000 + "1" + ")" * 200_000), "G006"),
    "many_signs": (reward_of("-" * 20_000 + "1"), "G006"),
    "doubling_rewards": (
        "grape 1\n\n"
        + "".join(f"reward r{i}() = r{i + 1}() + r{i + 1}()\n" for i in range(30))
        + "reward r30() = exact()\n",
        "G717",
    ),
    "deep_pattern": (reward_of(f'regex("{"(" * 5000}{")" * 5000}")'), "G202"),
    "huge_pattern": (reward_of('regex("a{99999999999999}")'), "G202"),
    "zero_byte": ("grape 1\n\nreward a() = ex\0act()\n", "G001"),
    "hidden_order": ("grape 1\n\n# \u202e gnirts\nreward a() = exact()\n", "G718"),
    "brace_template": (pipeline(data=DATA.replace("{a} +", "{" * 99_999)), "G421"),
    "attribute_template": (pipeline(data=DATA.replace("{a}", "{a.__class__.__mro__}")), "G420"),
    "many_columns": (pipeline(data=DATA.replace("{a}", "{nope}" * 20_000)), "G420"),
    "deep_row": (data_at("data/deep.jsonl"), "G434"),
    "digits_in_row": (data_at("data/digits.jsonl"), "G434"),
    "endless_line": (data_at("data/line.jsonl"), "G434"),
    "damaged_header": (model_at("models/fake.gguf"), "G435"),
    "linked_tokenizer": (model_at("models/linked"), "G711"),
    "endless_template": (
        pipeline(
            data='jsonl("data/chat.jsonl") { messages = "{messages}" }',
            model='pretrained("models/looping")',
        ),
        "G428",
    ),
    "prying_template": (
        pipeline(
            data='jsonl("data/chat.jsonl") { messages = "{messages}" }',
            model='pretrained("models/prying")',
        ),
        "G428",
    ),
}


@pytest.fixture
def trapped(project: Path) -> Path:
    """The project with links out of it, hostile data and hostile models."""
    outside = project.parent
    (outside / "outside.jsonl").write_text('{"a": "secret", "b": "secret"}\n')
    (outside / "outside.py").write_text("raise SystemExit\n")
    (outside / "outside.grape").write_text("grape 1\n\nreward a() = exact()\n")
    (project / "data" / "link.jsonl").symlink_to(outside / "outside.jsonl")
    (project / "elsewhere").symlink_to(outside)
    (project / "link.py").symlink_to(outside / "outside.py")
    (project / "link.grape").symlink_to(outside / "outside.grape")
    (project / "data" / "deep.jsonl").write_text("[" * 100_000 + "\n")
    (project / "data" / "digits.jsonl").write_text('{"a": ' + "9" * 100_000 + "}\n")
    with (project / "data" / "line.jsonl").open("wb") as file:
        file.truncate(20 * 2**20)
    (project / "models" / "fake.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    linked = project / "models" / "linked"
    linked.mkdir()
    (linked / "config.json").write_text("{}")
    (linked / "tokenizer.json").symlink_to(outside / "outside.jsonl")
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    for name, template in (("looping", loop), ("prying", "{{ messages.__class__.__mro__ }}")):
        source, target = project / "models" / "chat", project / "models" / name
        target.mkdir()
        for file_ in source.iterdir():
            (target / file_.name).write_text(file_.read_text())
        config = target / "tokenizer_config.json"
        text = '{"eos_token": "<|end|>", "chat_template": "' + template + '"}'
        config.write_text(text)
    return project


def check(file: Path) -> tuple[Program, list[Any]]:
    """Everything that may be done with a file that nobody trusts."""
    program = load(file)
    found = list(program.findings) + probe(program)
    human(found, color=True)
    as_json(found)
    if program.ok:
        for graph in program.graphs.values():
            if graph is not None:
                prepare(graph, file)
                for draw in FORMATS.values():
                    draw(graph, None)
    return program, found


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_gives_its_finding_and_does_nothing(
    trapped: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "SECONDS", 0.5)
    text, code = CASES[name]
    file = trapped / "file.grape"
    file.write_text(text, encoding="utf-8")
    began = time.monotonic()
    with listening() as heard:
        _, found = check(file)
    assert time.monotonic() - began < 30
    assert code in [finding.code for finding in found]
    assert all(entry(finding.code) for finding in found)
    assert not [line for line in heard if line.startswith("!")]
    outside = trapped.parent.resolve()
    secrets = [
        path
        for path in heard
        if path == "/etc/passwd"
        or (Path(path).resolve().parent == outside)
        or (str(path).startswith("/etc/") and "passwd" in path)
    ]
    assert secrets == []
    assert not (trapped / "touched").exists() and not Path("touched").exists()


def test_a_byte_order_mark_is_no_part_of_the_text(project: Path) -> None:
    file = project / "file.grape"
    file.write_bytes("\ufeffgrape 1\n\nreward a() = exact()\n".encode())
    assert load(file).findings == []
