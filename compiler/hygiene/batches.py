"""The arithmetic of a batch: prompts, completions of each, sequences of an update, tokens.

Every count is of the whole run, never of a device, so nothing here depends on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import (
    Scope,
    input_of,
    samplers,
    scopes_of,
    setting_span,
    source_of,
)
from grape.compiler.verbs.sample import FOLLOWING
from grape.dsl import ast
from grape.dsl.findings import Finding, Label


def check_batches(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Updates that do not come out even (G405, G406), tokens that cannot fit (G413)."""
    sources: dict[int, Stage] = {}
    for scope in scopes_of(graph):
        if scope.stage.verb == "train":
            yield from _updates(scope, declared)
        if scope.stage.verb in ("sample", "evaluate", "train"):
            yield from _context(scope, declared, sources)


def _updates(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    stage = scope.stage
    size = stage.settings["sequences_per_update"]
    if stage.formula is None or size is None or "sequences_per_update" not in stage.given:
        return
    span = setting_span(stage, declared, "sequences_per_update")
    if stage.formula.on == "Preferences":
        if size % 2:
            message = f"a pair is 2 sequences, so an update of {size} cannot be filled"
            hint = f"write {_either(size, 2)}"
            yield Finding("G406", message, span, hint=hint)
        return
    for sampler in samplers(stage, scope.local):
        group, prompts = sampler.settings["group"], sampler.settings["prompts"]
        if (sampler.settings["curriculum"] or {}).get("least") is not None:
            continue  # groups of many sizes
        labels = (Label(setting_span(sampler, declared, "group"), f"groups of {group}"),)
        if size % group and not _thinned(stage, scope):
            message = (
                f"groups of {group} stay together, so an update of {size} sequences cannot be "
                f"filled: it would hold {max(group, size // group * group)}"
            )
            yield Finding("G406", message, span, labels, hint=f"write {_either(size, group)}")
        elif prompts is not None and (prompts * group) % size and not _thinned(stage, scope):
            yield _uneven(stage, sampler, declared, prompts * group)


def _uneven(stage: Stage, sampler: Stage, declared: ast.PipelineDecl, total: int) -> Finding:
    settings = stage.settings
    size, group = settings["sequences_per_update"], sampler.settings["group"]
    rest = total % size
    message = (
        f"{sampler.settings['prompts']} prompts × group {group} = {total} sequences do not divide "
        f"into updates of {size}: the last one has {rest}"
    )
    if total < size:
        message = (
            f"{sampler.settings['prompts']} prompts × group {group} = {total} sequences are fewer "
            f"than the {size} of an update"
        )
    fitting = [n for n in range(group, total + 1, group) if total % n == 0]
    near = sorted(fitting, key=lambda n: (abs(n - size), n))[:2]
    values = " or ".join(str(n) for n in sorted(near))
    labels = (Label(setting_span(sampler, declared, "prompts"), "drawn here"),)
    span = setting_span(stage, declared, "sequences_per_update")
    return Finding("G405", message, span, labels, hint=f"values that divide it: {values}")


def _thinned(stage: Stage, scope: Scope) -> bool:
    """Whether a stage between sampling and training changes the number of sequences."""
    edge = input_of(stage, "data")
    while edge is not None:
        source = scope.local.get(edge.source)
        if source is None or source.verb in ("keep", "best", "pair"):
            return source is not None
        if source.verb == "sample":
            return (source.settings["sampler"] or {}).get("kind") in FOLLOWING
        edge = input_of(source, "rollouts")
    return False


def _either(size: int, unit: int) -> str:
    low, high = size // unit * unit, (size // unit + 1) * unit
    return f"{low} or {high}" if low else f"{high}"


def _context(
    scope: Scope, declared: ast.PipelineDecl, sources: dict[int, Stage]
) -> Iterator[Finding]:
    """Settings in tokens against the context of a model that the file itself builds."""
    edge = input_of(scope.stage, "model")
    source = source_of(edge.source, scope.local, sources) if edge is not None else None
    if source is None or source.verb != "fresh":
        return
    context = source.settings["context"]
    name = "max_length" if scope.stage.verb == "train" else "max_tokens"
    wanted = scope.stage.settings[name]
    if wanted is None or wanted + (name == "max_tokens") <= context:
        return
    span = setting_span(scope.stage, declared, name)
    labels = (Label(setting_span(source, declared, "context"), f"a context of {context}"),)
    message = f"`{name} = {wanted}` does not fit the {context} tokens of `{source.name}`"
    if name == "max_tokens":
        message += ", which hold the prompt too"
    yield Finding(
        "G413", message, span, labels, hint=f"lower it, or raise `context` to {2 * wanted}"
    )
