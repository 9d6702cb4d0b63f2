"""Findings that need the first rows and the tokenizer: lengths, stop tokens, templates, rewards.

In come a graph and `Facts`, out come findings. No weights are read and no user code runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import (
    Scope,
    ancestry,
    input_of,
    samplers,
    scopes_of,
    setting_span,
)
from grape.compiler.tools import sources
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span
from grape.runtime.artifacts import Item
from grape.runtime.probe.facts import Facts, Model, Trouble
from grape.runtime.probe.lengths import check_prompts, check_targets
from grape.runtime.probe.rewards import check_columns, check_reward
from grape.runtime.probe.rubrics import check_shown

NO_ATTENTION = frozenset(
    [
        "bamba",
        "falcon_mamba",
        "granitemoehybrid",
        "jamba",
        "lfm2",
        "mamba",
        "mamba2",
        "nemotron_h",
        "qwen3_next",
        "recurrent_gemma",
        "rwkv",
        "zamba",
        "zamba2",
    ]
)
"""Architectures whose layers carry a state from token to token: an attention mask does not keep
two sequences of one row apart."""


def check_probed(graph: Graph, declared: ast.PipelineDecl, facts: Facts) -> Iterator[Finding]:
    """All findings that files tell. What cannot be read is told once, where it is declared."""
    told: set[str] = set()
    for scope in scopes_of(graph):
        stage = scope.stage
        yield from _packages(stage, declared)
        try:
            if stage.type.name == "Data" and stage.verb != "hf":
                facts.items(stage)
            elif stage.verb in ("pretrained", "fresh"):
                model = facts.model(stage, scope.local)
                yield from _architecture(stage, model)
                yield from _head(stage, declared, model)
        except Trouble as trouble:
            if trouble.message not in told and not _missing_package(stage):
                told.add(trouble.message)
                yield _told(stage, declared, trouble)
    for scope in scopes_of(graph):
        try:
            yield from _stage(scope, declared, facts)
        except Trouble:
            continue  # told above


def _told(stage: Stage, declared: ast.PipelineDecl, trouble: Trouble) -> Finding:
    span = setting_span(stage, declared, trouble.part or "path")
    return Finding(trouble.code, trouble.message, span, hint=trouble.hint)


def _stage(scope: Scope, declared: ast.PipelineDecl, facts: Facts) -> Iterator[Finding]:
    stage = scope.stage
    if stage.verb == "train":
        yield from _other_models(scope, facts)
        found = _rows(scope, "data", facts)
        model = _model(scope, "model", facts)
        if found is not None and model is not None:
            yield from check_targets(scope, declared, *found, model)
    elif stage.verb in ("sample", "evaluate"):
        found = _rows(scope, "prompts", facts)
        if found is None:
            return
        yield from _enough(stage, declared, *found)
        model = _model(scope, "model", facts)
        if model is not None:
            yield from check_prompts(scope, declared, *found, model)
        if stage.reward is not None:
            yield from _judged(scope, declared, *found, facts, stage)
    elif stage.verb in ("score", "revise"):
        for sampler in samplers(stage, scope.local):
            inner = Scope(sampler, scope.local, scope.repeat)
            found = _rows(inner, "prompts", facts)
            if found is not None:
                yield from _judged(scope, declared, *found, facts, sampler)
            return


def _judged(
    scope: Scope,
    declared: ast.PipelineDecl,
    data: Stage,
    items: list[Item],
    facts: Facts,
    sampler: Stage,
) -> Iterator[Finding]:
    talks = bool(sources(sampler.settings))
    stage, project = scope.stage, facts.project
    wrong = list(check_columns(stage, declared, data, items, project, talks=talks))
    wrong = wrong or list(check_shown(stage, declared, data, items))
    yield from wrong or check_reward(scope.stage, declared, data, items, facts.project)


def _rows(scope: Scope, port: str, facts: Facts) -> tuple[Stage, list[Item]] | None:
    """The data source at an input, and its first items; None when a stage lies between."""
    edge = input_of(scope.stage, port)
    source = scope.local.get(edge.source) if edge is not None else None
    if source is None or source.type.name != "Data" or source.verb == "hf":
        return None
    return source, facts.items(source)


def _model(scope: Scope, port: str, facts: Facts) -> Model | None:
    """What is known of the source of the model at an input."""
    edge = input_of(scope.stage, port)
    line = list(ancestry(edge.source, scope.local)) if edge is not None else []
    if not line or line[-1].verb not in ("pretrained", "fresh"):
        return None
    return facts.model(line[-1], scope.local)


def _other_models(scope: Scope, facts: Facts) -> Iterator[Finding]:
    """A teacher or a reference reads the policy's token ids, so it must have its tokenizer."""
    own = _model(scope, "model", facts)
    for port in ("reference", "teacher"):
        edge = input_of(scope.stage, port)
        other = _model(scope, port, facts) if edge is not None else None
        if own is None or other is None or edge is None:
            continue
        if own.identity and other.identity and own.identity != other.identity:
            policy = input_of(scope.stage, "model")
            assert policy is not None
            message = (
                f"`{edge.source}` has another tokenizer than `{policy.source}`: the same ids mean "
                "other tokens to it"
            )
            labels = (Label(policy.span, "its ids are this model's"),)
            hint = f"take a {port} with the same tokenizer"
            yield Finding("G430", message, edge.span, labels, hint=hint)


def _enough(
    stage: Stage, declared: ast.PipelineDecl, data: Stage, items: list[Item]
) -> Iterator[Finding]:
    """More prompts a round than there are, as far as the first rows tell."""
    from grape.runtime.probe.facts import ROWS

    wanted = stage.settings["prompts"]
    if wanted is None or stage.verb != "sample" or len(items) >= ROWS or data.verb == "environment":
        return
    edge = input_of(stage, "prompts")
    share = data.settings.get("split")
    there: int = len(items)
    if share is not None and edge is not None and edge.view is not None:
        there = round(len(items) * (share if edge.view == "train" else 1 - share))
    if wanted > there:
        message = f"`prompts = {wanted}`, and the data has {there}: some are drawn twice a round"
        labels = (Label(data.span, "the data"),)
        span = setting_span(stage, declared, "prompts")
        yield Finding("G433", message, span, labels, hint=f"write `prompts = {max(there, 1)}`")


def _architecture(stage: Stage, model: Model) -> Iterator[Finding]:
    if model.architecture in NO_ATTENTION:
        message = (
            f"`{stage.name}` is a {model.architecture}: its layers carry a state along a row, so "
            "packed sequences would see each other"
        )
        yield Finding("G429", message, stage.span, hint="take a model with attention only")


def _head(stage: Stage, declared: ast.PipelineDecl, model: Model) -> Iterator[Finding]:
    """`head = "score"` needs a classifier with one output; what nobody knows yet is no finding."""
    if stage.settings.get("head") is None or model.architecture is None or model.outputs == 1:
        return
    what = "is a model of language and has no score head"
    hint = "train one on preferences: `algorithm = reward_model()`; then leave `head` out"
    if model.outputs is not None:
        what = f"tells {model.outputs} labels apart, and a score head has one output"
        hint = 'write `classifier("…", label = "…")` in the reward'
    message = f"`{stage.settings['source']}` {what}"
    yield Finding("G358", message, setting_span(stage, declared, "head"), hint=hint)


_PACKAGES = {
    "environment": ("reasoning_gym", "grape-lang[environments]"),
    "parquet": ("pyarrow", "pyarrow"),
    "hf": ("datasets", "grape-lang[hub]"),
}


def _missing_package(stage: Stage) -> bool:
    return stage.verb in _PACKAGES and find_spec(_PACKAGES[stage.verb][0]) is None


def _packages(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Optional packages that a stage needs: looked up, never imported."""
    needed: tuple[str, str, str, Span] | None = None
    settings: dict[str, Any] = stage.settings
    if _missing_package(stage):
        needed = (*_PACKAGES[stage.verb], f"`{stage.verb}`", stage.span)
    elif stage.verb == "train" and settings["adapter"] and find_spec("peft") is None:
        span = setting_span(stage, declared, "adapter")
        needed = ("peft", "peft", "`lora`", span)
    elif settings.get("engine") == "vllm" and find_spec("vllm") is None:
        span = setting_span(stage, declared, "engine")
        needed = ("vllm", "grape-lang[vllm]", '`engine = "vllm"`', span)
    elif str(settings.get("source", "")).endswith(".gguf") and find_spec("gguf") is None:
        needed = ("gguf", "gguf", "a `.gguf` model", stage.span)
    if needed is not None:
        module, install, what, span = needed
        message = f"{what} needs the package `{module}`, which is not installed here"
        yield Finding("G432", message, span, hint=f"run `pip install '{install}'`")
