"""`grape lint` for other programs, and fixes that never make a file worse.

No package ships the JSON schema of SARIF, so the part of it that is used is written out here
after the specification: which properties an object may have, which it must have, which values are
allowed.
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


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """A closed object: the properties that it must and may have."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def several(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 1}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
MESSAGE = record({"text": TEXT}, {"markdown": TEXT})
REGION = record(dict.fromkeys(("startLine", "startColumn", "endLine", "endColumn"), COUNT))
URI = {"type": "string", "format": "uri-reference", "pattern": r"^[^ \\]+$"}
ARTIFACT = record({"uri": URI})
PLACE = {"physicalLocation": record({"artifactLocation": ARTIFACT, "region": REGION})}
RELATED = record({"id": {"type": "integer", "minimum": 0}, "message": MESSAGE, **PLACE})
REPLACEMENT = record(
    {"deletedRegion": REGION, "insertedContent": record({"text": {"type": "string"}})}
)
CHANGE = record({"artifactLocation": ARTIFACT, "replacements": several(REPLACEMENT)})
FIX = record({"artifactChanges": several(CHANGE)}, {"description": MESSAGE})
RULE = record(
    {"id": TEXT},
    {
        "name": {"type": "string", "pattern": "^[A-Z][A-Za-z0-9]*$"},
        "shortDescription": MESSAGE,
        "fullDescription": MESSAGE,
        "help": MESSAGE,
        "defaultConfiguration": record({"level": LEVEL}),
        "properties": {"type": "object"},
    },
)
RESULT = record(
    {"message": MESSAGE},
    {
        "ruleId": TEXT,
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": LEVEL,
        "locations": several(record(PLACE)),
        "relatedLocations": several(RELATED),
        "fixes": several(FIX),
    },
)
DRIVER = record({"name": TEXT}, {"version": TEXT, "rules": several(RULE)})
RUN = record(
    {"tool": record({"driver": DRIVER})},
    {"columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]}, "results": several(RESULT)},
)
SCHEMA = record({"version": {"const": "2.1.0"}, "runs": several(RUN)}, {"$schema": TEXT})


def checked(document: Any) -> dict[str, Any]:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert isinstance(run, dict)
    return run


def test_sarif_says_what_the_lines_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bäd file.grape"
    file.write_text(BAD)
    assert main(["lint", str(file), "--format", "sarif"]) == 1
    run = checked(json.loads(capsys.readouterr().out))
    assert [result["ruleId"] for result in run["results"]] == ["G111", "G114"]
    place = run["results"][1]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == file.as_uri()
    region = {"startLine": 5, "startColumn": 13, "endLine": 5, "endColumn": 18}
    assert place["region"] == region
    (change,) = run["results"][1]["fixes"][0]["artifactChanges"]
    assert change["replacements"] == [
        {"deletedRegion": region, "insertedContent": {"text": "train"}}
    ]


def test_a_clean_file_is_an_empty_run(capsys: pytest.CaptureFixture[str]) -> None:
    file = ROOT / "pipelines" / "tiny" / "quickstart.grape"
    assert main(["lint", str(file), "--format", "sarif"]) == 0
    assert checked(json.loads(capsys.readouterr().out))["results"] == []


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
