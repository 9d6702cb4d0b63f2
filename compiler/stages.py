"""One node of a pipeline: a `model`, `data`, `stage` or `next` statement becomes a `Stage`.

Inputs are matched to ports, settings checked against the verb's model, algorithms and rewards
compiled. Raises `Refused` at the first thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

from grape.compiler.algorithms import (
    check_known,
    check_sampled,
    condition_of,
    declaration_of,
    formula_of,
)
from grape.compiler.constants import Value, evaluate, origin
from grape.compiler.copies import fill_path
from grape.compiler.engines import check_engine
from grape.compiler.files import check_files
from grape.compiler.following import check_following
from grape.compiler.graph import Edge, Stage
from grape.compiler.merging import check_merge
from grape.compiler.names import refuse, unknown
from grape.compiler.regions import Declared, Found, Place, resolve
from grape.compiler.revising import check_revise
from grape.compiler.rewarding import with_reward
from grape.compiler.samplers import check_sampler
from grape.compiler.settings import check_settings
from grape.compiler.types import described, usable_as, way_from
from grape.compiler.verb import Port, Verb
from grape.compiler.verbs import KEYWORDS, VERBS, verb
from grape.compiler.verbs.sample import FOLLOWING
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span

STANDING = ("seed", "processes")
"""Parameters of these names are the defaults of the settings of these names."""
Inputs = dict[str, tuple[Found, ast.Arg]]


def build_stage(node: ast.Node, declared: Declared) -> Stage:
    """Check one node and everything it depends on. Raises `Refused`."""
    place = declared.place
    call, made = _verb_of(node)
    literals, options, edges, reward = _arguments(made, call, place)
    inputs = _inputs(made, call, edges, place)
    settings, given = check_settings(
        made.name,
        made.settings,
        node.settings,
        place.values,
        call.span,
        special=made.special,
        positional=literals,
        defaults={
            name: value
            for name, value in place.values.items()
            if name in STANDING and value.kind == "int"
        },
    )
    if made.options:
        settings["options"] = options
    if made.name == "sample":
        settings["group"] = check_following(settings, given, inputs, node)
        check_engine(settings, given, inputs["model"][0], node)
    if settings.get("sampler") and settings["sampler"]["kind"] not in FOLLOWING:
        found = {port: edge for port, (edge, _) in inputs.items()}
        check_sampler(settings, given, found, node, place.region.pipeline.project)
    if made.name == "export":
        settings["path"] = fill_path(settings["path"], place.values, call.span)
    types = {port: found.type for port, (found, _) in inputs.items()}
    stage = Stage(
        name=declared.name,
        verb=made.name,
        type=made.result(types, settings),
        inputs=tuple(found.edge(port, arg.span) for port, (found, arg) in inputs.items()),
        settings=settings,
        given=given | {port.name for port in made.ports if port.named and port.name in inputs},
        span=node.span,
        doc=node.doc,
        layers=dict(_layers(node)),
        every=place.every,
    )
    check_files(stage, call.span, place.region.pipeline.project)
    if made.name == "merge":
        stage = check_merge(stage, node, [found for found, _ in inputs.values()], place)
    stage = with_reward(stage, reward, call, types, place)
    for name in sorted(made.special):
        stage = _with_special(name, stage, node, inputs, place)
    if made.name == "revise":
        check_revise(stage, inputs["rollouts"][0], node)
    if made.name == "keep":
        _check_keep(stage, inputs, call.span)
    return stage


def _layers(node: ast.Node) -> Iterator[tuple[str, str]]:
    """Settings that the file takes from the environment, and from which variable."""
    for setting in node.settings:
        came = origin(setting.value)
        if came is not None:
            yield setting.name.name, came


def _verb_of(node: ast.Node) -> tuple[ast.Call, Verb]:
    call = node.call
    keyword = "stage" if node.keyword == "next" else node.keyword
    if not isinstance(call, ast.Call) or not isinstance(call.function, ast.Name):
        example = {"model": "pretrained(…)", "data": 'jsonl("…")', "stage": "train(…)"}[keyword]
        message = f"`{node.name.name}` needs a call on the right, for example `{example}`"
        refuse("G114", message, call.span)
    name = call.function.name
    if name not in VERBS:
        message = f"there is no {_NOUNS[keyword]} `{name}`"
        known = KEYWORDS[keyword]
        unknown("G114", message, name, call.function.span, known, listing="there are")
    made = verb(name)
    if made.keyword != keyword:
        what = made.keyword if made.keyword == "data" else f"a {made.keyword}"
        message = f"`{name}` makes {what}: write `{made.keyword} {node.name.name} = …`"
        refuse("G220", message, call.function.span)
    return call, made


_NOUNS = {"model": "model source", "data": "data source", "stage": "verb"}

Arguments = tuple[dict[str, tuple[Value, Span]], dict[str, Any], dict[str, ast.Arg], ast.Arg | None]


def _arguments(made: Verb, call: ast.Call, place: Place) -> Arguments:
    """Arguments sorted out: literal settings, options, edges by port, the reward."""
    scope = place.values
    literals: dict[str, tuple[Value, Span]] = {}
    options: dict[str, Any] = {}
    edges: dict[str, ast.Arg] = {}
    reward: ast.Arg | None = None
    places = [*made.literals, *(port.name for port in made.ports if not port.named)]
    places += ["reward"] if made.reward else []
    names = {port.name for port in made.ports} | ({"reward"} if made.reward else set())
    positional = iter(places)
    for arg in call.args:
        name = arg.name.name if arg.name else next(positional, None)
        if name is None:
            refuse("G203", f"`{made.name}` takes {_listing(places)}; this is one more", arg.span)
        if arg.name is not None and name not in names:
            if not made.options:
                _not_an_input(made, arg.name, names)
            options[name] = _option(name, evaluate(arg.value, scope), arg.value.span)
        elif name in edges or (name == "reward" and reward is not None):
            refuse("G102", f"`{name}` is given twice", arg.span)
        elif name in made.literals:
            literals[name] = (evaluate(arg.value, scope), arg.value.span)
        elif name == "reward" and made.reward:
            reward = arg
        else:
            edges[name] = arg
    return literals, options, edges, reward


def _option(name: str, value: Value, span: Span) -> Any:
    if value.kind == "secret":
        refuse("G236", f"`{name}` is shown and stored, so it cannot be a secret", span)
    return value.plain()


def _not_an_input(made: Verb, name: ast.Ident, names: set[str]) -> NoReturn:
    if name.name in made.settings.model_fields or name.name in made.special:
        message = f"`{name.name}` is a setting of `{made.name}`; settings stand in braces"
        refuse("G203", message, name.span, hint=f"write `{{ {name.name} = … }}` after the call")
    message = f"`{made.name}` has no input `{name.name}`"
    unknown("G108", message, name.name, name.span, names, listing="its inputs are")


def _listing(places: list[str]) -> str:
    return ", ".join(f"`{place}`" for place in places) or "nothing"


def _inputs(made: Verb, call: ast.Call, edges: dict[str, ast.Arg], place: Place) -> Inputs:
    inputs: Inputs = {}
    for port in made.ports:
        arg = edges.get(port.name)
        if arg is None:
            if not port.optional:
                refuse("G203", f"`{made.name}` needs `{port.name}` in its parentheses", call.span)
            continue
        found = resolve(arg.value, place)
        _accept(made, port, found, arg)
        inputs[port.name] = (found, arg)
    return inputs


def _accept(made: Verb, port: Port, found: Found, arg: ast.Arg) -> None:
    name = arg.value.span.text
    labels = (Label(found.made_at, f"`{found.name}` is made here"),)
    if not usable_as(found.type, port.accepts):
        what = described(found.type)
        message = f"`{made.name}` needs {port.accepts} as `{port.name}`, `{name}` is {what}"
        hint = way_from(found.type, port.accepts, name)
        refuse("G201", message, arg.span, labels=labels, hint=hint)
    if found.type.served and found.type.name == "Model" and not port.served:
        message = f"`{name}` is a served model, and `{made.name}` needs the weights themselves"
        hint = "a served model judges in a rubric and samples; it is never trained or copied"
        refuse("G250", message, arg.span, labels=labels, hint=hint)
    if found.type.split and found.view is None and port.accepts != "Text":
        message = f"`{name}` is split; say which part is meant"
        refuse("G222", message, arg.span, hint=f"write `{name}.train` or `{name}.test`")


def _with_special(name: str, stage: Stage, node: ast.Node, inputs: Inputs, place: Place) -> Stage:
    setting = next((s for s in node.settings if s.name.name == name), None)
    if setting is None and name not in verb(stage.verb).required:
        return stage
    if setting is None:
        message = f"`{stage.verb}` needs `{name}`"
        refuse("G209", message, node.call.span, hint=f"write `{{ {name} = sft() }}`")
    if name == "where":
        made = inputs["rollouts"][0].type
        formula = condition_of(setting.value, made.parts, place.region.pipeline.findings)
        check_known(formula, made.adds, setting.span)
        if "reward" in formula.needs and not made.scored:
            message = "`where` reads the reward, and these rollouts have none yet"
            refuse("G201", message, setting.span, hint="score them first")
        read = {dict(term.attrs).get("name") for term in formula.terms if term.op == "input"}
        if made.served and read & {"length", "old_logp", "behavior_logp"}:
            message = "`where` counts tokens, and these rollouts are text of a served model"
            refuse("G251", message, setting.span, hint="a reward can count words: `within(…)`")
        return replace(stage, formula=formula)
    return _trained(stage, setting, inputs, place)


def _check_keep(stage: Stage, inputs: Inputs, span: Span) -> None:
    """Something must be chosen by, and rewards must be there for what compares them."""
    ranks = [name for name in ("top", "count") if stage.settings[name] is not None]
    if stage.formula is None and not ranks:
        message = "`keep` needs `where`, `top` or `count`: by what it keeps"
        refuse("G209", message, span, hint="write `{ where = std(reward per group) > 0 }`")
    if ranks and not inputs["rollouts"][0].type.scored:
        message = f"`{ranks[0]}` compares rewards, and these rollouts have none yet"
        refuse("G201", message, span, hint="score them first")


def _trained(stage: Stage, setting: ast.Setting, inputs: Inputs, place: Place) -> Stage:
    declaration, _ = declaration_of(setting.value, place.region.pipeline.module)
    data, arg = inputs["data"]
    learns = declaration.on.name
    wanted = "scored Rollouts" if learns == "Rollouts" else learns
    if not usable_as(data.type, wanted):
        name = arg.value.span.text
        what = described(data.type)
        message = f"`{declaration.name.name}` learns from {wanted}, `{name}` is {what}"
        labels = (Label(arg.span, "the data"), Label(data.made_at, "made here"))
        refuse(
            "G204",
            message,
            setting.value.span,
            labels=labels,
            hint=way_from(data.type, wanted, name),
        )
    if data.type.name == "Rollouts" and data.type.served:
        name = arg.value.span.text
        message = (
            f"`{name}` was written by a served model: text without tokens and log-probabilities"
        )
        hint = (
            f"imitate the best of it: `best({name})`, then `sft()`; or pair it; or, where the "
            "server gives tokens, write `tokens = true` in the braces of `served`"
        )
        refuse("G251", message, arg.span, hint=hint)
    assert isinstance(setting.value, ast.Call)
    findings = place.region.pipeline.findings
    formula = formula_of(setting.value, declaration, place.values, data.type.parts, findings)
    check_sampled(formula, data.type.adds, setting.value.span)
    settings = stage.settings
    if data.type.name != "Rollouts" and "sequences_per_update" not in stage.given:
        settings = settings | {"sequences_per_update": 16}
    judges = inputs["model"][0].type.judges or "score" in formula.needs
    made = replace(stage.type, judges=judges)
    stage = replace(stage, formula=formula, settings=settings, type=made)
    return _with_reference(stage, setting, inputs, place)


def _with_reference(stage: Stage, setting: ast.Setting, inputs: Inputs, place: Place) -> Stage:
    assert stage.formula is not None
    needs = stage.formula.needs
    if needs & {"teacher_logp", "teacher_logp_all"} and "teacher" not in inputs:
        message = f"`{stage.formula.name}` needs a teacher, and `train` is given none"
        refuse("G218", message, setting.span, hint="name it: `train(model, data, teacher = big)`")
    if not needs & {"ref_logp", "ref_logp_all", "mismatched"} or "reference" in inputs:
        return stage
    edge = place.region.reference(inputs["model"][1].span)
    if edge is None:
        own = next(e for e in stage.inputs if e.port == "model")
        edge = Edge("reference", own.source, own.view, own.span)
    return replace(stage, inputs=(*stage.inputs, edge))
