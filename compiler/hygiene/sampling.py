"""Selections that ask the sampler for more: whether it can be asked."""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.engines import OWN
from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import Scope, input_of, samplers, scopes_of, setting_span
from grape.compiler.verbs.sample import FOLLOWING
from grape.dsl import ast
from grape.dsl.findings import Finding, Label


def check_sampling(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """`prompts` of `keep` where nothing can be sampled again (G271), `max_tries` alone (G272);
    curricula without effect (G277) or sense (G278); two ways of drawing in one batch (G288);
    seeds that an engine cannot keep to (G612);
    `replay` outside a repeat (G275) and under a formula that is on-policy (G276)."""
    for scope in scopes_of(graph):
        stage = scope.stage
        if stage.verb == "sample" and stage.settings["curriculum"] is not None:
            yield from _curriculum(scope, declared)
        if stage.verb == "sample" and stage.settings["engine"] != OWN and "seed" in stage.given:
            engine = stage.settings["engine"]
            message = f"`{engine}` draws by this seed, and may still write other bytes next time"
            span = setting_span(stage, declared, "seed")
            hint = f'for the same bytes again sample with `engine = "{OWN}"`'
            yield Finding("G612", message, span, hint=hint)
        if stage.verb == "sample":
            yield from _mixed(scope, declared)
        if stage.verb == "train":
            yield from _stale(scope, declared)
        if stage.verb != "keep":
            continue
        if stage.settings["replay"] is not None and scope.repeat is None:
            message = "`replay` keeps what earlier rounds kept, and there are no rounds here"
            span = setting_span(stage, declared, "replay")
            yield Finding("G275", message, span, hint="use it in a repeat, or leave it out")
        if stage.settings["prompts"] is not None:
            why = _cannot(scope)
            if why is not None:
                message = f"`prompts` makes `{stage.name}` sample again, and {why[0]}"
                span = setting_span(stage, declared, "prompts")
                yield Finding("G271", message, span, hint=why[1])
        elif "max_tries" in stage.given:
            message = "`max_tries` does nothing without `prompts`"
            span = setting_span(stage, declared, "max_tries")
            hint = "say how many prompts are to be left: `prompts = 16`"
            yield Finding("G272", message, span, hint=hint)


def _mixed(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Completions drawn in two ways in one batch: what they are trained at fits one of them."""
    stage = scope.stage
    if (stage.settings["sampler"] or {}).get("kind") not in ("probe", "module"):
        return
    for before in samplers(stage, scope.local):
        for name in ("temperature", "top_p"):
            own, other = stage.settings[name], before.settings[name]
            if own != other:
                message = (
                    f"`{stage.name}` draws at `{name} = {own:g}` and goes on from `{before.name}`, "
                    f"drawn at {other:g}; they are trained together, at one of the two"
                )
                labels = (Label(setting_span(before, declared, name), "drawn here"),)
                span = setting_span(stage, declared, name)
                yield Finding("G288", message, span, labels, hint=f"write `{name} = {other:g}`")
                return


def _curriculum(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """A curriculum that has nothing to choose or to go by."""
    stage = scope.stage
    how = stage.settings["curriculum"]
    why = None
    if scope.repeat is None:
        why = "there are no rounds here to go through", "sample in a repeat"
    elif stage.settings["prompts"] is None:
        why = f"`{stage.name}` draws all prompts each time", "set `prompts`: how many are drawn"
    elif how["kind"] == "by_rate" and not _scored(stage, scope.repeat):
        what = f"no `score` of this repeat judges `{stage.name}`"
        why = what, f"score it directly: `score({stage.name}, REWARD)`"
    if why is not None:
        message = f"the curriculum `{how['kind']}` has no effect: {why[0]}"
        span = setting_span(stage, declared, "curriculum")
        yield Finding("G277", message, span, hint=why[1])
        return
    wrong = _impossible(stage)
    if wrong is not None:
        yield Finding("G278", wrong[0], setting_span(stage, declared, "curriculum"), hint=wrong[1])


def _scored(stage: Stage, repeat: Stage) -> bool:
    judges = [inner for inner in repeat.body if inner.verb == "score" and inner.every is None]
    edges = (input_of(inner, "rollouts") for inner in judges)
    return any(edge is not None and edge.source == stage.name for edge in edges)


def _impossible(stage: Stage) -> tuple[str, str] | None:
    """Numbers of `by_rate` that contradict each other or the rest, and the way out."""
    how = stage.settings["curriculum"]
    if how["kind"] != "by_rate":
        return None
    low, high = how["between"]
    if low > high:
        return f"`between` goes from {low:g} to {high:g}", "write the smaller rate first"
    least, group = how["least"], stage.settings["group"]
    if least is not None and least > group:
        what = f"`least = {least}` is more than `group = {group}`, which is the mean"
        return what, "lower `least`, or raise `group`"
    if least is not None and stage.settings["sampler"]:
        what = "a sampler of its own has as many completions of every prompt; `least` wants others"
        return what, "leave `least` or `sampler` out"
    return None


def _stale(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Completions of earlier rounds, and a formula that takes them for the model's own."""
    formula = scope.stage.formula
    if formula is None or formula.on != "Rollouts" or "behavior_logp" in formula.needs:
        return
    edge = input_of(scope.stage, "data")
    while edge is not None and edge.source in scope.local:
        stage = scope.local[edge.source]
        if stage.verb == "keep" and stage.settings["replay"] is not None:
            message = (
                f"`{stage.name}` brings completions of earlier rounds, and `{formula.name}` takes "
                "them for those of the model as it is"
            )
            span = setting_span(scope.stage, declared, "algorithm")
            labels = (Label(setting_span(stage, declared, "replay"), "replayed here"),)
            hint = "use a formula that reads `behavior_logp`: what each token was drawn with"
            yield Finding("G276", message, span, labels, hint=hint)
            return
        edge = input_of(stage, "rollouts")


def _cannot(scope: Scope) -> tuple[str, str] | None:
    """Why no further prompts can be drawn, and the way out; None where they can."""
    inside = {stage.name: stage for stage in scope.repeat.body} if scope.repeat else {}
    stage: Stage = scope.stage
    while stage.verb != "sample":
        edge = input_of(stage, "rollouts")
        source = inside.get(edge.source) if edge is not None else None
        if source is None:
            what = "its rollouts are sampled once, not in the rounds of this repeat"
            return what, "sample and score in the repeat around it, or leave `prompts` out"
        if source.verb == "keep" and source.settings["prompts"] is not None:
            return f"`{source.name}` does so already", "say `prompts` once, in the last `keep`"
        stage = source
    if (stage.settings["sampler"] or {}).get("kind") in FOLLOWING:
        what = f"`{stage.name}` goes on from rollouts that are there"
        return what, "write `prompts` in a `keep` before it"
    if stage.settings["prompts"] is None:
        what = f"`{stage.name}` draws all prompts there are"
        return what, "set `prompts` in `sample`: how many are drawn each time"
    return None
