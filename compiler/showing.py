"""A plan as a table for a person, and as the documented JSON.

Both say what a run would do and why; neither looks at the store or at files.
"""

from __future__ import annotations

from typing import Any

from grape.compiler.plan import Plan, PlannedStage


def plan_json(plan: Plan) -> dict[str, Any]:
    """`grape plan --format json`."""
    return {
        "pipeline": plan.pipeline,
        "file": plan.file,
        "params": plan.params,
        "layers": plan.layers,
        "stages": [_stage(stage) for stage in (*plan.stages, *plan.skipped)],
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
    if stage.layers:
        row["layers"] = stage.layers
    if stage.every is not None:
        row["every"] = stage.every
    if stage.until:
        row["until"] = [until.text for until in stage.until]
    if stage.body:
        row["body"] = [_stage(inner) for inner in stage.body]
    return row


def plan_text(plan: Plan) -> str:
    """`grape plan`: a line per stage, with what would happen and why."""
    rows: list[tuple[str, str, str, str, str]] = []
    for stage in plan.stages:
        rows.append(_row(stage, ""))
        rows += [_row(inner, "  ") for inner in stage.body]
    rows += [_row(stage, "") for stage in plan.skipped]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = [f"{plan.pipeline}  {_params(plan)}".rstrip(), ""]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  " + "  ".join([*cells, row[4]]).rstrip())
    after = [f"  check   {check.text}" for check in plan.checks]
    after += [f"  output  {output.ref.stage} as {output.path}" for output in plan.outputs]
    after += [f"  skipped {text}" for text in plan.left_out]
    lines += ["", *after] if after else []
    to_run = sum(stage.state != "cached" for stage in plan.stages)
    lines += ["", f"{to_run} of {len(plan.stages)} stages to run"]
    return "\n".join(lines)


def _params(plan: Plan) -> str:
    """Every parameter with its value and, where it is not the default, who set it."""
    said = []
    for name, value in plan.params.items():
        layer = plan.layers.get(name, "default")
        came = "" if layer == "default" else f" ({layer})"
        shown = "hidden" if isinstance(value, dict) else value
        said.append(f"{name} = {shown}{came}")
    return ", ".join(said)


def _row(stage: PlannedStage, indent: str) -> tuple[str, str, str, str, str]:
    state, reason = ("", "") if indent else (stage.state, stage.reason)
    if stage.state == "skipped":
        return stage.name, stage.verb, state, "", reason
    parts = [_numbers(stage)]
    parts += [f"every {stage.every} rounds"] if stage.every is not None else []
    parts += [f"until {until.text}" for until in stage.until]
    parts += [f"{name} from {came}" for name, came in stage.layers.items()]
    return indent + stage.name, stage.verb, state, reason, ", ".join(filter(None, parts))


def _numbers(stage: PlannedStage) -> str:
    settings, known = stage.settings, stage.estimate
    match stage.verb:
        case "repeat":
            parts = [f"{settings['rounds']} rounds"]
            parts += [
                f"{known[name]:,} {name}" for name in ("completions", "updates") if name in known
            ]
            return ", ".join(parts)
        case "sample":
            prompts = settings["prompts"] or "all"
            total = f" = {known['completions']} completions" if "completions" in known else ""
            size = f"{prompts} prompts × {settings['group']}{total}"
            return f"{size}, ≤ {settings['max_tokens']} tokens"
        case "train":
            assert stage.formula is not None
            parts = [stage.formula["name"], f"lr {settings['lr']:g}"]
            if settings["epochs"] > 1:
                parts.append(f"{settings['epochs']} epochs")
            if settings["sequences_per_update"]:
                parts.append(f"{settings['sequences_per_update']} sequences per update")
            if "updates" in known:
                parts.append(_count(known["updates"], "update"))
            elif settings["updates"]:
                parts.append(f"≤ {_count(settings['updates'], 'update')}")
            return ", ".join(parts)
        case "evaluate":
            return f"{settings['prompts'] or 'all'} prompts × {settings['group']}"
    return ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
