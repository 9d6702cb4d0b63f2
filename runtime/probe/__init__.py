"""Probing: what a checked file's data and tokenizers tell before a run, without weights.

`probe` gives findings in seconds; what it found is remembered in `.grape/probe.json` as long as the
files stay what they are. Nothing of the user's is imported or run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import scopes_of
from grape.compiler.keys import model_path
from grape.compiler.program import Program
from grape.compiler.rewards import walk
from grape.dsl import ast
from grape.dsl.allow import silenced
from grape.dsl.findings import Edit, Finding, Fix, Label, in_order
from grape.dsl.source import Source, Span

VERSION = 2
"""Changes when the same files come to give other findings."""


def probe(program: Program, pipeline: str | None = None) -> list[Finding]:
    """Findings of the files that the pipelines read (one, or all), those allowed left out.

    A program with errors is not probed: its graphs are not whole."""
    if not program.ok:
        return []
    found: list[Finding] = []
    for name, graph in program.graphs.items():
        declared = program.module.declared.get(name)
        if graph is None or pipeline not in (None, name):
            continue
        assert isinstance(declared, ast.PipelineDecl)
        found += _remembered(program, graph, declared)
    return in_order(silenced(program.files.values(), found))


def _remembered(program: Program, graph: Graph, declared: ast.PipelineDecl) -> list[Finding]:
    from grape.runtime.preparing import root_of

    source = declared.span.source
    project = Path(source.path).resolve().parent
    memory = root_of(project) / "probe.json"
    key = _key(program, graph, project)
    sources = {file.source.path: file.source for file in program.files.values()}
    known = _noted(memory)
    if key in known:
        return [_from_json(row, sources) for row in known[key]]
    from grape.runtime.probe.checks import check_probed
    from grape.runtime.probe.facts import Facts

    facts = Facts(project)
    found = list(check_probed(graph, declared, facts))
    if not facts.unknown:
        _note(memory, {**known, key: [_to_json(finding) for finding in found]})
    return found


def _key(program: Program, graph: Graph, project: Path) -> str:
    """Digest of all that the findings depend on: texts, parameters, size and time of files."""
    facts: list[Any] = [VERSION, graph.pipeline, graph.params]
    facts += [[file.source.path, file.source.text] for file in program.files.values()]
    for scope in scopes_of(graph):
        for path in _reads(scope.stage, project):
            facts.append([str(path), *_stat(path)])
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _reads(stage: Stage, project: Path) -> Iterator[Path]:
    settings = stage.settings
    if "path" in settings and stage.type.name == "Data":
        yield project / settings["path"]
    if stage.verb == "pretrained" and not settings["source"].startswith("hf:"):
        path = model_path(settings["source"], project)
        yield path
        yield from (path / name for name in ("config.json", "tokenizer.json"))
    for node in walk(stage.reward) if stage.reward is not None else ():
        if node["op"] == "call" and node["name"] == "python":
            yield project / node["params"]["source"].partition(":")[0]


def _stat(path: Path) -> list[int]:
    try:
        facts = path.stat()
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns]


def _noted(memory: Path) -> dict[str, list[dict[str, Any]]]:
    """What earlier probes found; a memory that cannot be read is started anew."""
    try:
        noted = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note(memory: Path, known: dict[str, list[dict[str, Any]]]) -> None:
    """Keep the newest few; a project that cannot be written goes without."""
    if not memory.parent.is_dir():
        return
    fresh = memory.with_suffix(f".{os.getpid()}")
    try:
        fresh.write_text(json.dumps(dict(list(known.items())[-20:])), encoding="utf-8")
        fresh.replace(memory)
    except OSError:
        return


def _to_json(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "message": finding.message,
        "span": _span(finding.span),
        "labels": [[_span(label.span), label.text] for label in finding.labels],
        "hint": finding.hint,
        "fix": None
        if finding.fix is None
        else [
            finding.fix.title,
            [[_span(edit.span), edit.text] for edit in finding.fix.edits],
            finding.fix.safe,
        ],
    }


def _span(span: Span) -> list[Any]:
    return [span.source.path, span.start, span.end]


def _from_json(row: dict[str, Any], sources: dict[str, Source]) -> Finding:
    def span(place: list[Any]) -> Span:
        return Span(sources[place[0]], place[1], place[2])

    fix = None
    if row["fix"] is not None:
        title, edits, safe = row["fix"]
        fix = Fix(title, tuple(Edit(span(at), text) for at, text in edits), safe)
    labels = tuple(Label(span(at), text) for at, text in row["labels"])
    return Finding(row["code"], row["message"], span(row["span"]), labels, row["hint"], fix)
