"""Settings and formulas that run and cannot teach what they should."""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.formula.ir import Formula, Term
from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import Scope, samplers, scopes_of, setting_span, value_span
from grape.dsl import ast
from grape.dsl.findings import Edit, Finding, Fix, Label


def check_learning(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Learning rates (G402), groups (G401, G404), KL (G425), sampling (G426), filters (G416)."""
    for scope in scopes_of(graph):
        stage = scope.stage
        if stage.verb == "train":
            yield from _rate(stage, declared)
            yield from _kl_twice(stage, declared)
            yield from _unused(stage, declared)
            yield from _sampled_from(scope, declared)
        if stage.verb == "sample":
            yield from _copies(stage, declared)
        if stage.verb == "keep":
            yield from _exact_filter(stage, declared)
    yield from check_groups(graph, declared)


def _rate(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    lr = stage.settings["lr"]
    full = stage.settings["adapter"] is None
    if lr == 0 or lr >= (1e-2 if full else 1e-1):
        why = "nothing is learned" if lr == 0 else "it destroys a pretrained model"
        message = f"a learning rate of {lr:g} is implausible: {why}"
        usual = "1e-6 to 1e-4" if full else "1e-5 to 1e-3"
        hint = f"usual values are {usual}"
        yield Finding("G402", message, setting_span(stage, declared, "lr"), hint=hint)


_NATURAL = ("damping", "cg_iterations", "backtracks")
_PENALTY = ("penalty", "fixups")
_STEPS = ("lr", "head_lr", "warmup", "schedule", "weight_decay", "betas", "clip_norm")


def _unused(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Settings of a kind of step that is not made."""
    assert stage.formula is not None
    name = stage.formula.name
    idle: tuple[str, ...]
    if not stage.formula.constraints:
        idle, why = ("solver", *_NATURAL, *_PENALTY), f"`{name}` has no `subject to`"
        hint = "leave it out, or add a constraint to the algorithm"
    elif stage.settings["solver"] == "penalty":
        idle, why = _NATURAL, "it belongs to the natural gradient"
        hint = 'leave it out, or write `solver = "natural_gradient"`'
    else:
        idle, why = (*_STEPS, *_PENALTY), f"`{name}` is trained by the natural gradient"
        hint = 'its bound says how far a step goes; ordinary steps: `solver = "penalty"`'
    for setting in idle:
        if setting in stage.given:
            span = setting_span(stage, declared, setting)
            yield Finding("G351", f"`{setting}` does nothing here: {why}", span, hint=hint)
            return


def _copies(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    if stage.settings["temperature"] == 0 and stage.settings["group"] > 1:
        group = stage.settings["group"]
        message = f"at temperature 0 all {group} completions of a prompt are the same"
        span = setting_span(stage, declared, "temperature")
        yield Finding("G404", message, span, hint="raise the temperature or set `group = 1`")


def check_groups(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """An algorithm that compares the completions of a prompt, given one completion of each."""
    for scope in scopes_of(graph):
        stage = scope.stage
        if stage.verb != "train" or stage.formula is None or not _compares(stage.formula):
            continue
        for source in samplers(stage, scope.local):
            if source.settings["group"] == 1:
                name = stage.formula.name
                message = f"`{name}` compares completions of one prompt, `group = 1` gives one each"
                span = setting_span(source, declared, "group")
                labels = (Label(stage.span, f"trained with `{name}` here"),)
                yield Finding("G401", message, span, labels, hint="set `group = 8`")


def _compares(formula: Formula) -> bool:
    return any(term.op == "reduce" and term.level.value == "group" for term in formula.terms)


def _reached(formula: Formula) -> set[int]:
    """The terms that the objective is made of."""
    found: set[int] = set()
    open_ = [formula.objective]
    while open_:
        index = open_.pop()
        if index not in found:
            found.add(index)
            open_ += formula.terms[index].args
    return found


def _is_input(term: Term, *names: str) -> bool:
    return term.op == "input" and term.attr("name") in names


def _kl_twice(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """A distance to the reference both as a constant, in the advantage, and with gradient."""
    formula = stage.formula
    if formula is None or "ref_logp" not in formula.needs:
        return
    kinds: set[bool] = set()
    for index in _reached(formula):
        term = formula.terms[index]
        sides = [formula.terms[arg] for arg in term.args]
        if term.op == "sub" and any(_is_input(side, "ref_logp") for side in sides):
            kinds |= {side.differentiable for side in sides if not _is_input(side, "ref_logp")}
    if kinds == {True, False}:
        message = (
            f"`{formula.name}` holds the model to its reference twice: in the reward, without "
            "gradient, and in the loss"
        )
        span = setting_span(stage, declared, "algorithm")
        hint = "keep one of the two; with both, neither weight means what it says"
        yield Finding("G425", message, span, hint=hint)


def _sampled_from(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Rollouts from a cut distribution, trained as if the whole one had drawn them."""
    stage = scope.stage
    if stage.formula is None or stage.formula.on != "Rollouts":
        return
    for sampler in samplers(stage, scope.local):
        top_p, temperature = sampler.settings["top_p"], sampler.settings["temperature"]
        name = "top_p" if top_p < 1 else "temperature"
        if top_p == 1 and temperature > 0:
            continue
        what = f"`top_p = {top_p:g}` cuts off part" if top_p < 1 else "temperature 0 cuts off most"
        message = (
            f"{what} of the distribution, and `{stage.formula.name}` computes its ratios and "
            "gradients with the whole one"
        )
        labels = (Label(stage.span, "trained here"),)
        span = value_span(sampler, declared, name)
        fix = Fix(f"write `{name} = 1`", (Edit(span, "1"),), safe=False) if span else None
        yield Finding("G426", message, setting_span(sampler, declared, name), labels, fix=fix)


def _exact_filter(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """`==` and `!=` with a mean or a deviation: numbers that are computed are rarely equal."""
    formula = stage.formula
    if formula is None:
        return
    for term in formula.terms:
        sides = [formula.terms[arg] for arg in term.args]
        if term.op in ("eq", "ne") and any(
            side.op == "reduce" and side.attr("kind") in ("mean", "std", "var") for side in sides
        ):
            message = "a computed mean or deviation is compared for exact equality"
            hint = "write `std(reward per group) > 1e-6` for groups whose rewards differ"
            yield Finding("G416", message, setting_span(stage, declared, "where"), hint=hint)
            return
