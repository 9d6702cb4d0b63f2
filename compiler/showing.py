"""A plan for a person: what a run would do and why, what it takes, and how batches are made.

The plan is all that it looks at: neither the store nor files. `document.py` has the JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grape.compiler.batches import Batches, batches
from grape.compiler.estimates.ranges import amount, duration, size
from grape.compiler.plan import Plan, PlannedStage
from grape.compiler.verbs.sample import FOLLOWING


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
    for table in (_resources(plan), _batches(plan)):
        lines += ["", *table] if table else []
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned: the first to the left, the others to the right."""
    if not rows:
        return []
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]


def _resources(plan: Plan) -> list[str]:
    """Memory, tokens and time of the stages that would run."""
    rows = [_resource(stage) for stage in plan.stages if "memory" in stage.estimate]
    device = plan.device
    where = f"on {device.get('name')}" if device else ""
    if device and device.get("memory"):
        where += f", {size(device['memory'])}"
    head = (
        f"estimated {where}",
        "peak memory",
        "low – high",
        "tokens",
        "FLOP",
        "time",
        "last time",
    )
    return _table(head, rows)


def _resource(stage: PlannedStage) -> tuple[str, ...]:
    known = stage.estimate
    memory, tokens = known["memory"], known.get("tokens")
    measured = known.get("measured")
    last = ""
    if measured:
        peak = f", {size(measured['peak_bytes'])}" if measured["peak_bytes"] else ""
        last = f"{duration(measured['seconds'])}{peak}"
    return (
        stage.name,
        size(memory["expected"]),
        f"{size(memory['low'])} – {size(memory['high'])}",
        amount(tokens["expected"]) if tokens else "",
        amount(known["flops"]["expected"]) if tokens else "",
        duration(known["seconds"]) if "seconds" in known else "",
        last,
    )


def _batches(plan: Plan) -> list[str]:
    """How prompts become completions, sequences and updates, where a stage learns from rollouts."""
    head = (
        "batches",
        "prompts × group",
        "completions",
        "sequences/update",
        "updates/round",
        "rounds",
        "updates",
    )
    return _table(head, [_batch(found) for found in batches(plan)])


def _batch(found: Batches) -> tuple[str, ...]:
    return (
        found.name,
        f"{found.prompts} × {found.group}",
        f"{found.completions}",
        f"{found.held}",
        f"{found.updates}",
        f"{found.rounds}",
        f"{found.rounds * found.updates}",
    )


def explained(plan: Plan, name: str) -> str:
    """`grape plan --explain STAGE`: every line of its estimate with the formula. Raises
    ValueError for an unknown stage."""
    for stage in plan.stages:
        if stage.name == name:
            return "\n".join(_explained(stage))
    names = ", ".join(stage.name for stage in plan.stages)
    raise ValueError(f"there is no stage `{name}`; there are: {names}")


def _explained(stage: PlannedStage) -> Iterator[str]:
    known = stage.estimate
    yield f"{stage.name}  ({stage.verb})"
    if "memory" not in known:
        yield "  nothing is known of it before it runs"
        return
    phase = None
    for line in sorted(known["memory_lines"], key=lambda line: line["phase"]):
        if line["phase"] != phase:
            phase = line["phase"]
            yield f"  {phase}"
        yield f"    {line['name']:<16} {size(line['bytes']['expected']):>9}  = {line['formula']}"
    memory = known["memory"]
    yield (
        f"  peak = all the time + the largest other phase = {size(memory['expected'])}  "
        f"({size(memory['low'])} – {size(memory['high'])})"
    )
    if "tokens" in known:
        tokens, flops = known["tokens"], known["flops"]
        yield (
            f"  tokens {amount(tokens['expected'])}  ({amount(tokens['low'])} – "
            f"{amount(tokens['high'])}), {amount(flops['expected'])} floating-point operations"
        )
    if "bytes_moved" in known:
        yield f"  read and written: {size(known['bytes_moved'])}"
    if "seconds" in known:
        yield f"  expected time {duration(known['seconds'])}, from what earlier runs measured"
    if "measured" in known:
        yield f"  last time: {_resource(stage)[-1]}"
    for note in known.get("notes", ()):
        yield f"  {note}"


def why_text(plan: Plan, name: str) -> str:
    """`grape why STAGE`: the reasons as a tree, from the stage back to where a change began.
    Raises ValueError for an unknown stage and for one inside a repeat, which has one state."""
    known = {stage.name: stage for stage in plan.stages}
    for region in plan.stages:
        if name not in known and name.removeprefix(f"{region.name}.") in {
            inner.name for inner in region.body
        }:
            raise ValueError(
                f"`{name}` is part of the repeat `{region.name}`, which runs as a whole: "
                f"ask for `{region.name}`"
            )
    if name not in known:
        raise ValueError(f"there is no stage `{name}`; there are: {', '.join(known)}")
    return "\n".join(_why(known, name, "", "", set()))


def _why(
    known: dict[str, PlannedStage], name: str, lead: str, indent: str, seen: set[str]
) -> Iterator[str]:
    stage = known[name]
    again = name in seen
    seen.add(name)
    yield f"{lead}{name}  {stage.state}: {stage.reason}" + (" (see above)" if again else "")
    if again:
        return
    for place, source in enumerate(stage.upstream):
        last = place == len(stage.upstream) - 1
        corner, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        yield from _why(known, source, indent + corner, indent + below, seen)


def _row(stage: PlannedStage, indent: str) -> tuple[str, str, str, str, str]:
    state, reason = ("", "") if indent else (stage.state, stage.reason)
    if stage.state == "skipped":
        return stage.name, stage.verb, state, "", reason
    parts = [_numbers(stage)]
    parts += [_count(stage.processes, "process", "es")] if stage.processes > 1 else []
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
            parts += ["completions by the weights of the round before"] * settings.get(
                "staleness", 0
            )
            return ", ".join(parts)
        case "sample":
            prompts = settings["prompts"] or "all"
            kind = (settings.get("sampler") or {}).get("kind")
            if kind in FOLLOWING and settings["prompts"] is None:
                return f"{kind} of all rollouts, ≤ {settings['max_tokens']} tokens"
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
        case "revise":
            return f"{settings['gives']}, items below {settings['below']:g}"
        case "evaluate":
            return f"{settings['prompts'] or 'all'} prompts × {settings['group']}"
    return ""


def _count(number: int, noun: str, many: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{many}"
