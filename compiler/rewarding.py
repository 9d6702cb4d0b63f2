"""The reward of a stage: an expression, a rubric or a model, and the models that it asks.

In come a stage without its reward and the argument that names it; out comes the stage with the
reward as JSON and with an edge for every model in it. Raises `Refused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from grape.compiler.combine import Confidence
from grape.compiler.constants import Value
from grape.compiler.graph import Stage
from grape.compiler.modules import Module
from grape.compiler.names import Refused, refuse
from grape.compiler.regions import Found, Place, is_defined, resolve
from grape.compiler.revising import combine_of
from grape.compiler.rewards import compile_reward, judge_port, missing_for, parts_of, walk
from grape.compiler.rubrics import compile_rubric, missing_for_rubric, rubric_of
from grape.compiler.types import ArtifactType, described
from grape.compiler.verbs import verb
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span

Models = dict[str, tuple[Found, Span]]
"""By port: a model that a reward asks, and where the file names it."""


def with_reward(
    stage: Stage,
    reward: ast.Arg | None,
    call: ast.Call,
    types: dict[str, ArtifactType],
    place: Place,
) -> Stage:
    """The stage with its reward; as it is where its verb takes none. Raises `Refused`."""
    if not verb(stage.verb).reward:
        return stage
    if reward is None and stage.verb == "revise":
        refuse("G203", "`revise` needs the rubric that its rollouts were scored by", call.span)
    if reward is None:
        refuse("G203", f"`{stage.verb}` needs a reward, for example `exact()`", call.span)
    judge = _judge(reward.value, place)
    if judge is not None:
        return _with_judge(stage, judge, reward)
    source = types["rollouts" if "rollouts" in types else "prompts"]
    writer = types.get("rollouts") or types["model"]
    rubric = rubric_of(reward.value, place.region.pipeline.module)
    if rubric is not None:
        assert isinstance(reward.value, ast.Call)
        stage, models = _with_rubric(stage, reward.value, *rubric, place)
    else:
        stage, models = _with_expression(stage, reward, place)
    assert stage.reward is not None
    _check_judges(stage, models)
    edges = [found.edge(port, span) for port, (found, span) in models.items()]
    stage = replace(stage, inputs=(*stage.inputs, *edges))
    assert stage.reward is not None
    missing = missing_for_rubric(stage.reward, source.columns) if rubric else None
    missing = missing or missing_for(stage.reward, source.columns, tokens=not writer.served)
    if missing is not None:
        hint = "give the data a template for `answer`" if "answer" in missing else None
        refuse("G214", missing, reward.span, hint=hint)
    if stage.type.name == "Rollouts":
        return replace(stage, type=replace(stage.type, parts=frozenset(parts_of(stage.reward))))
    return stage


def _judge(expr: ast.Expr, place: Place) -> Found | None:
    """The model that a reward names, None where it names no model. Raises `Refused` for one that
    is damaged."""
    if not isinstance(expr, ast.Name | ast.Index):
        return None
    try:
        found = resolve(expr, place)
    except Refused as refused:
        if refused.finding is None:
            raise
        return None
    return found if found.type.name == "Model" else None


def _with_judge(stage: Stage, judge: Found, reward: ast.Arg) -> Stage:
    """A reward model in the place of a reward: a further input of the stage."""
    _scores(judge, reward.span)
    _no_combine(stage, reward)
    edge = judge.edge("judge", reward.span)
    return replace(stage, reward={"op": "model", "args": []}, inputs=(*stage.inputs, edge))


def _scores(judge: Found, span: Span) -> None:
    """Refuse a model that has no score head."""
    if judge.type.judges:
        return
    labels = (Label(judge.made_at, f"`{judge.name}` is made here"),)
    if judge.type.served:
        message = f"`{judge.name}` is a served model: it writes text and gives no score by itself"
        hint = "ask it questions in a rubric: `item NAME = ask(critic, …)`"
        refuse("G250", message, span, labels=labels, hint=hint)
    message = f"`{judge.name}` has no score head, so it gives no reward"
    hint = (
        "train it on preferences first: `algorithm = reward_model()`; a reward model that exists "
        'is `pretrained("…") { head = "score" }`'
    )
    refuse("G350", message, span, labels=labels, hint=hint)


def _no_combine(stage: Stage, reward: ast.Arg) -> None:
    if stage.settings["combine"] is not None:
        message = "`combine` is about the items of a rubric, and this reward is one number already"
        refuse("G256", message, reward.span, hint="leave `combine` out, or score with a rubric")


def _with_expression(stage: Stage, reward: ast.Arg, place: Place) -> tuple[Stage, Models]:
    _no_combine(stage, reward)
    pipeline = place.region.pipeline
    models: Models = {}
    named: dict[str, Value] = {}
    ports = {port.name for port in verb(stage.verb).ports}
    for name in _models_in(reward.value, place):
        found = resolve(name, place)
        if found.type.name != "Model":
            labels = (Label(found.made_at, f"`{found.name}` is made here"),)
            message = f"`{found.name}` is {described(found.type)}, and no value of a reward"
            refuse("G201", message, name.span, labels=labels)
        if name.name not in named:
            port = f"{name.name}_judge" if name.name in ports else name.name
            named[name.name] = Value(port, "model")
            models[port] = found, name.span
    scope = {**place.values, **named}
    compiled = compile_reward(reward.value, pipeline.module, scope, pipeline.project)
    return replace(stage, reward=compiled), models


def _models_in(expr: ast.Expr, place: Place) -> Iterator[ast.Name]:
    """The names among the arguments of calls that mean stages; what `classifier` is given, too
    where no stage is called so, since nothing else can be meant."""
    if isinstance(expr, ast.Call):
        judges = isinstance(expr.function, ast.Name) and expr.function.name == "classifier"
        for arg in expr.args:
            name = arg.value
            if not isinstance(name, ast.Name) or name.name in place.values:
                continue
            if judges or _is_stage(name.name, place):
                yield name
    for inner in ast.inside(expr):
        yield from _models_in(inner, place)


def _is_stage(name: str, place: Place) -> bool:
    here: Place | None = place
    while here is not None:
        region = here.region
        if (region.carry is not None and region.carry.name == name) or is_defined(name, region):
            return True
        here = region.outer
    return False


def _check_judges(stage: Stage, models: Models) -> None:
    """Every model that `classifier` reads has a score head."""
    assert stage.reward is not None
    for node in walk(stage.reward):
        port = judge_port(node)
        if port is not None:
            _scores(*models[port])


def _with_rubric(
    stage: Stage, call: ast.Call, declared: ast.RubricDecl, home: Module, place: Place
) -> tuple[Stage, Models]:
    """The rubric in its place, its models as further inputs of the stage."""
    ports = {port.name for port in verb(stage.verb).ports}
    models: Models = {}

    def connect(name: str, arg: ast.Arg) -> str:
        found = resolve(arg.value, place)
        if found.type.name != "Model":
            labels = (Label(found.made_at, f"`{found.name}` is made here"),)
            message = f"`{name}` of `{declared.name.name}` is a model, `{found.name}` is "
            refuse("G201", message + described(found.type), arg.span, labels=labels)
        port = f"{name}_critic" if name in ports else name
        models[port] = found, arg.span
        return port

    project = place.region.pipeline.project
    compiled = compile_rubric(call, declared, home, place.values, project, connect)
    combine = stage.settings["combine"]
    if combine is None and stage.verb == "revise":
        source = next(edge.source for edge in stage.inputs if edge.port == "rollouts")
        combine = combine_of(source, place, call.span)
    combine = combine or Confidence().model_dump(mode="json")
    made = replace(stage, reward=compiled, settings=stage.settings | {"combine": combine})
    return made, models
