"""A plan as a table for a person, and as the documented JSON."""

from __future__ import annotations

from typing import Any

from grape.compiler.plan import Plan, PlannedStage


def plan_json(plan: Plan) -> dict[str, Any]:
    """`grape plan --format json`."""
    return {
        "pipeline": plan.pipeline,
        "file": plan.file,
        "params": plan.params,
        "stages": [_stage(stage) for stage in plan.stages],
        "checks": [check.text for check in plan.checks],
        "outputs": [output.path for output in plan.outputs],
        "versions": plan.versions,
    }


def _stage(stage: PlannedStage) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": stage.name,
        "verb": stage.verb,
        "type": stage.type,
        "state": stage.state,
        "reason": stage.reason,
        "key": stage.key,
        "settings": stage.settings,
        "estimate": stage.estimate,
        "inputs": {port: ref.model_dump() for port, ref in stage.inputs.items()},
    }
    if stage.formula is not None:
        row["algorithm"] = {"name": stage.formula["name"], "params": dict(stage.formula["params"])}
    if stage.body:
        row["body"] = [_stage(inner) for inner in stage.body]
    return row


def plan_text(plan: Plan) -> str:
    """`grape plan`: a line per stage, with what would happen and why."""
    rows: list[tuple[str, str, str, str, str]] = []
    for stage in plan.stages:
        rows.append(_row(stage, ""))
        rows += [_row(inner, "  ") for inner in stage.body]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{plan.pipeline}  {_params(plan)}".rstrip(), ""]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  " + "  ".join([*cells, row[4]]).rstrip())
    lines.append("")
    lines += [f"  check   {check.text}" for check in plan.checks]
    lines += [f"  output  {output.ref.stage} as {output.path}" for output in plan.outputs]
    to_run = sum(stage.state != "cached" for stage in plan.stages)
    lines += ["", f"{to_run} of {len(plan.stages)} stages to run"]
    return "\n".join(lines)


def _params(plan: Plan) -> str:
    return ", ".join(f"{name} = {value}" for name, value in plan.params.items())


def _row(stage: PlannedStage, indent: str) -> tuple[str, str, str, str, str]:
    state, reason = ("", "") if indent else (stage.state, stage.reason)
    return indent + stage.name, stage.verb, state, reason, _numbers(stage)


def _numbers(stage: PlannedStage) -> str:
    settings = stage.settings
    if stage.verb == "repeat":
        return f"{settings['rounds']} rounds"
    if stage.verb == "sample":
        prompts = settings["prompts"] or "all"
        total = f" = {prompts * settings['group']} completions" if settings["prompts"] else ""
        return f"{prompts} prompts × {settings['group']}{total}, ≤ {settings['max_tokens']} tokens"
    if stage.verb == "train" and stage.formula is not None:
        size = settings["sequences_per_update"]
        sequences = f", {size} sequences per update" if size else ""
        return f"{stage.formula['name']}, lr {settings['lr']:g}{sequences}"
    if stage.verb == "evaluate":
        return f"{settings['prompts'] or 'all'} prompts × {settings['group']}"
    return ""
