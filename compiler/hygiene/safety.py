"""What a careful reader would want to see before a run: foreign code, moving targets, no policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import scopes_of, setting_span
from grape.compiler.rewards import walk
from grape.compiler.tools import sources
from grape.dsl import ast
from grape.dsl.findings import Finding, Label


def check_safety(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Remote code (G714), hub sources without a revision (G605), rewards without a policy (G407) or
    with side effects (G604, G716), adapters that would be saved bare (G431)."""
    seen: set[str] = set()
    project = Path(declared.span.source.path).resolve().parent
    for scope in scopes_of(graph):
        stage = scope.stage
        if stage.verb == "pretrained":
            yield from _model(stage, declared)
        if stage.verb == "hf" and stage.settings["revision"] is None:
            yield from _data(stage, declared)
        if scope.repeat is not None and stage.reward is not None:
            yield from _policy(stage, declared)
        yield from _purity(stage, project, seen)
        if stage.verb == "export" and not stage.settings["merge"]:
            message = "models are published merged; a bare adapter fits one base and no other"
            span = setting_span(stage, declared, "merge")
            yield Finding("G431", message, span, hint="leave `merge` out")


def _model(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    source = stage.settings["source"]
    if stage.settings["trust_remote_code"]:
        message = f"Python code that comes with `{source}` will run on this machine"
        span = setting_span(stage, declared, "trust_remote_code")
        hint = "use an architecture that transformers knows, or read that code and allow this line"
        yield Finding("G714", message, span, hint=hint)
    if source.startswith("hf:") and "@" not in source:
        message = f"`{source}` may mean other weights tomorrow: it names no revision"
        span = setting_span(stage, declared, "source")
        yield Finding("G605", message, span, hint=f'pin it: `"{source}@REVISION"`')


def _data(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    path = stage.settings["path"]
    if not path.startswith(("./", "../")):
        message = f'the data set "{path}" may hold other rows tomorrow: it names no revision'
        span = setting_span(stage, declared, "revision")
        yield Finding("G605", message, span, hint='pin it: `revision = "…"`')


def _policy(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """A Python reward in a loop of hours, and nothing said about the sample on which it fails."""
    assert stage.reward is not None
    calls = [node for node in walk(stage.reward) if node["op"] == "call"]
    own = next((node for node in calls if node["name"] == "python"), None)
    if own is not None and not stage.given & {"on_error", "timeout"}:
        message = (
            f"`{own['params']['source']}` runs in every round, and nothing says what happens when "
            "it fails: the run stops"
        )
        span = setting_span(stage, declared, "on_error")
        hint = 'write `{ on_error = "stop", timeout = 10s }`, or a number for such a completion'
        yield Finding("G407", message, span, hint=hint)


def _purity(stage: Stage, project: Path, seen: set[str]) -> Iterator[Finding]:
    """What Python rewards and tools do beside answering; each file is told of once."""
    for text, what_changes in _python(stage):
        if text.partition(":")[0] in seen:
            continue
        from grape.compiler.python_reward import impurities, loose_calls

        seen.add(text.partition(":")[0])
        for place, what in impurities(text, project):
            message = f"`{text}` {what}, so {what_changes}"
            hint = "judge from the arguments alone, or draw from `random.Random(seed)`"
            yield Finding("G604", message, stage.span, (Label(place, "here"),), hint=hint)
        for place in loose_calls(text, project):
            message = f"`{text}` does something as soon as its file is loaded"
            hint = 'move it into a function, or below `if __name__ == "__main__":`'
            yield Finding("G716", message, stage.span, (Label(place, "here"),), hint=hint)


def _python(stage: Stage) -> Iterator[tuple[str, str]]:
    """The `FILE.py:FUNCTION`s that a stage calls, and what an impure one means."""
    for node in walk(stage.reward) if stage.reward is not None else ():
        if node["op"] == "call" and node["name"] == "python":
            yield node["params"]["source"], "the same completion can get another reward"
    for source in sources(stage.settings):
        yield source, "the same call can get another result, and a seed no longer says what happens"
