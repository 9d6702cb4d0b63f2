"""`grape lint` for other programs, and fixes that never make a file worse.

SARIF is held to its official JSON schema (`tests/schemas`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from grape.dsl.catalogue import codes
from grape.dsl.findings import Edit, Finding, Fix
from grape.dsl.reports import as_github, as_sarif, uri
from grape.dsl.source import Source, Span
from grape.runtime.cli import main

ROOT = Path(__file__).parents[2]
BAD = 'grape 1\n\npipeline p() {\n  model b = pretrained("nowhere")\n  stage x = trian(b)\n}\n'


SCHEMA = json.loads((ROOT / "tests" / "schemas" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(
    SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


def checked(document: Any) -> dict[str, Any]:
    """The only run of a SARIF document, which agrees with the official schema."""
    VALIDATOR.validate(document)
    (run,) = document["runs"]
    for place in _addresses(run):
        assert re.fullmatch(r"[\w!$&'()*+,;=:@%/.~-]+", place, re.ASCII), place
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert isinstance(run, dict)
    return run


def _addresses(node: Any) -> list[str]:
    """Every `uri` anywhere in a document; the validator alone does not look into them."""
    if isinstance(node, list):
        return [found for item in node for found in _addresses(item)]
    if not isinstance(node, dict):
        return []
    own = [node["uri"]] if "uri" in node else []
    return own + _addresses(list(node.values()))


def test_sarif_says_what_the_lines_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bäd file.grape"
    file.write_text(BAD)
    assert main(["lint", str(file), "--format", "sarif"]) == 1
    run = checked(json.loads(capsys.readouterr().out))
    assert [result["ruleId"] for result in run["results"]] == ["G111", "G114"]
    place = run["results"][1]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == file.as_uri()
    region = {"startLine": 5, "startColumn": 13, "endLine": 5, "endColumn": 18}
    assert place["region"] == {**region, "snippet": {"text": "trian"}}
    (change,) = run["results"][1]["fixes"][0]["artifactChanges"]
    assert change["replacements"] == [
        {"deletedRegion": region, "insertedContent": {"text": "train"}}
    ]


def test_a_clean_file_is_an_empty_run(capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "pipelines" / "tiny" / "quickstart.grape"
    assert main(["lint", str(file), "--format", "sarif"]) == 0
    assert checked(json.loads(capsys.readouterr().out))["results"] == []


def test_every_broken_case_is_valid_sarif(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["lint", "tests/cases/diagnose", "--format", "sarif"]) == 1
    results = checked(json.loads(capsys.readouterr().out))["results"]
    assert len(results) > 100
    assert all(not address.startswith("file:") for address in _addresses(results))
    for wanted in ("fixes", "relatedLocations"):
        assert any(wanted in result for result in results), wanted


ODD = {
    "empty.grape": b"",
    "only the edition.grape": b"grape 1",
    "no text.grape": b"\xff\xfe\x00\x00",
    "sub folder #1/lines.grape": b"grape 1\r\n\r\npipeline p() {\r\n  stage x = trian(b)\r\n",
    "100%/[\u00e9].grape": 'grape 1\n\n# \U0001f347\nmodel = "\U0001f347 \n'.encode(),
}


@pytest.mark.parametrize("start", [".", "absolute", "..", "one by one"])
def test_odd_files_and_paths_are_valid_sarif(
    start: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "two words \u00e9"
    for name, content in ODD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    monkeypatch.chdir(folder)
    named = {"absolute": [str(folder)], "one by one": list(ODD), "..": [f"../{folder.name}"]}
    assert main(["lint", *named.get(start, [start]), "--format", "sarif"]) == 1
    results = checked(json.loads(capsys.readouterr().out))["results"]
    assert len(set(_addresses(results))) >= 4


def test_what_a_probe_finds_is_valid_sarif(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from grape.dsl.catalogue import entry

    probed = {code for code in codes() if entry(code).depth == "probe"} - {"G432"}  # no package
    files = []
    for code in sorted(probed):
        files.append(f"{code}.grape")
        (project / files[-1]).write_text(entry(code).bad, encoding="utf-8")
    monkeypatch.chdir(project)
    main(["lint", *files, "--probe", "--format", "sarif"])
    results = checked(json.loads(capsys.readouterr().out))["results"]
    assert probed <= {result["ruleId"] for result in results}


def test_the_schema_refuses_what_is_no_sarif() -> None:
    span = Span(Source("a.grape", "x\n"), 0, 1)
    document = as_sarif([Finding("G101", "message", span)], "1")
    document["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]["line"] = 1
    with pytest.raises(jsonschema.ValidationError):
        checked(document)


def test_every_rule_of_the_catalogue_is_valid_sarif() -> None:
    span = Span(Source("a.grape", "x\n"), 0, 1)
    run = checked(as_sarif([Finding(code, "message", span) for code in codes()], "1"))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(codes())
    assert all(rule["defaultConfiguration"]["level"] in ("error", "warning") for rule in rules)


def test_paths_are_addresses() -> None:
    assert uri("a b/c.grape") == "a%20b/c.grape"
    assert uri("/x/y.grape") == "file:///x/y.grape"
    assert uri("C:\\x\\y.grape") == "file:///C:/x/y.grape"


def test_github_annotations_are_one_line_each_and_escaped() -> None:
    source = Source("a,b:c.grape", "one\ntwo\n")
    found = [
        Finding("G101", "50% of it\nis wrong", Span(source, 0, 3), hint="try, this"),
        Finding("G106", "over lines", Span(source, 1, 6)),
    ]
    first, second = as_github(found).split("\n")
    assert first == (
        "::error file=a%2Cb%3Ac.grape,line=1,endLine=1,col=1,endColumn=4,"
        "title=G101 unknown-name::50%25 of it%0Ais wrong%0Atry, this"
    )
    assert second.startswith("::warning file=a%2Cb%3Ac.grape,line=1,endLine=2,title=G106 ")


def test_certain_fixes_are_applied_and_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.grape"
    file.write_text("# kept\n" + BAD.removeprefix("grape 1\n\n"))
    assert main(["lint", str(file), "--fix", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [item["code"] for item in found] == ["G111", "G114"]
    text = file.read_text()
    assert text.startswith("grape 1\n\n# kept\n") and "trian" in text
    assert main(["lint", str(file), "--fix"]) == 1
    assert file.read_text() == text


@pytest.mark.parametrize("replacement", ["stage = = {", "stage warm = nothing(1)\n  stage y = x()"])
def test_a_fix_that_breaks_the_file_is_not_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    replacement: str,
) -> None:
    from grape.compiler import program

    load = program.load

    def harmful(path: Path, **more: Any) -> program.Program:
        made = load(path, **more)
        for number, finding in enumerate(made.findings):
            if finding.code == "G114":
                fix = Fix("break it", (Edit(finding.span, replacement),))
                made.findings[number] = Finding("G114", finding.message, finding.span, fix=fix)
        return made

    monkeypatch.setattr(program, "load", harmful)
    file = tmp_path / "a.grape"
    file.write_text(BAD)
    assert main(["lint", str(file), "--fix"]) == 2
    assert file.read_text() == BAD
    assert "was left as it is" in capsys.readouterr().err


def test_the_hooks_are_commands_that_exist() -> None:
    from grape.runtime.cli import COMMANDS

    text = (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert re.findall(r"^- id: (.+)$", text, re.MULTILINE) == ["grape-lint", "grape-fmt"]
    for entry in re.findall(r"entry: grape (\w+)$", text, re.MULTILINE):
        assert entry in COMMANDS
