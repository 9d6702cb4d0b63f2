"""Work that nobody asked for: stages that nothing uses, outputs that replace each other."""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import metrics, statements
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span


def check_waste(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Unused stages (G403), paths written twice (G221) or outside the project (G712)."""
    yield from _unused(graph, declared)
    yield from _paths(graph)


def _unused(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    used = {output.source for output in graph.outputs} | set(_elsewhere(graph, declared))
    for check in graph.checks:
        used |= set(metrics(check.test))
    wasted: list[Stage] = []
    for stage in graph.stages:
        used |= {edge.source for edge in stage.inputs}
        inner_used = {edge.source for inner in stage.body for edge in inner.inputs}
        inner_used |= {name for until in stage.until for name in metrics(until.test)}
        wasted += [s for s in stage.body if s.name not in inner_used and s.name != "next"]
    wasted += [stage for stage in graph.stages if stage.name not in used]
    wasted = [stage for stage in wasted if stage.verb not in ("evaluate", "export")]
    if wasted:
        named = (s for s in statements(declared.body) if isinstance(s, ast.Node | ast.Repeat))
        names = {statement.span: statement.name.span for statement in named}
        for stage in wasted:
            message = f"nothing uses `{stage.name}`"
            hint = "publish it with `output`, use it, or remove it"
            yield Finding("G403", message, names[stage.span], hint=hint)


def _elsewhere(graph: Graph, declared: ast.PipelineDecl) -> Iterator[str]:
    """What a branch that is not taken would use: another value of a parameter takes it."""
    for skipped in graph.skipped:
        yield from (edge.source for edge in skipped.stage.inputs)
    if graph.left_out:
        for statement in statements(declared.body):
            if isinstance(statement, ast.Output):
                yield from _names(statement.value)
            elif isinstance(statement, ast.Check):
                yield from _names(statement.test)


def _names(node: ast.Expr) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.name
    for inner in ast.inside(node):
        yield from _names(inner)


def _paths(graph: Graph) -> Iterator[Finding]:
    seen: dict[str, Span] = {}
    exports = [
        (stage.settings["path"], stage.span) for stage in graph.stages if stage.verb == "export"
    ]
    for path, span in [*((out.path, out.span) for out in graph.outputs), *exports]:
        plain = path.rstrip("/").removeprefix("./")
        if _leaves_project(plain):
            message = f'"{path}" lies outside the project folder'
            hint = "a run writes below the folder of its pipeline file only"
            yield Finding("G712", message, span, hint=hint)
        elif plain in seen and seen[plain] == span:
            message = f'every copy writes "{path}"; the last would replace the others'
            hint = "put the value into the path, for example `models/{lr}`"
            yield Finding("G221", message, span, hint=hint)
        elif plain in seen:
            message = f'"{path}" is written twice; the second would replace the first'
            yield Finding("G221", message, span, (Label(seen[plain], "first written here"),))
        seen.setdefault(plain, span)


def _leaves_project(path: str) -> bool:
    """Whether a path climbs out of the folder it starts in, or is that folder."""
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return path.startswith("/") or depth == 0 or "\0" in path
