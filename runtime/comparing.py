"""Two pipelines side by side: what was set, what was done, what came of it.

A side is a file, a saved plan or a run; results are compared item by item where both sides have
evaluated the same items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape.compiler.plan import Plan, PlannedStage
from grape.compiler.program import Invalid, load
from grape.runtime.artifacts import Report
from grape.runtime.errors import UsageError
from grape.runtime.preparing import prepare, root_of, saved_plan
from grape.runtime.runs import find_run, plan_of
from grape.runtime.stats import mean_ci95, paired_difference
from grape.runtime.store import Store


@dataclass(frozen=True, slots=True)
class Side:
    """A plan, and the reports of its evaluations by stage, as far as they are in the store."""

    name: str
    plan: Plan
    reports: Mapping[str, Report]


def side(name: str, project: Path, pipeline: str | None) -> Side:
    """What a word of the command line means. Raises UsageError."""
    path = Path(name)
    if path.suffix == ".grape" or path.is_file():
        plan = _of_file(path, pipeline)
    else:
        record = find_run(root_of(project.resolve()), name)
        found = plan_of(Path(record["folder"]))
        if found is None:
            raise UsageError(f"the run `{record['id']}` has no plan that this version reads")
        name, plan = record["id"], found
    store = Store(root_of(Path(plan.project)) / "store")
    reports = {
        stage.name: Report.load(store.path(stage.key))
        for stage in plan.stages
        if stage.type == "Report" and store.has(stage.key)
    }
    return Side(name, plan, reports)


def _of_file(path: Path, pipeline: str | None) -> Plan:
    if not path.is_file():
        raise UsageError(f"there is no file `{path}`")
    if path.suffix == ".json":
        return saved_plan(path)[0]
    program = load(path, pipeline=pipeline)
    try:
        graph = program.graph(pipeline)
    except (ValueError, Invalid) as error:
        raise UsageError(f"`{path}`: {error}", hint=f"see `grape lint {path}`") from None
    return prepare(graph, path)


def compare(a: Side, b: Side) -> dict[str, Any]:
    """The comparison as JSON: `params`, `stages`, `checks`, `versions`, `results`."""
    one, other = (dict(_flat(item.plan)) for item in (a, b))
    stages: list[dict[str, Any]] = []
    for name in dict.fromkeys([*one, *other]):
        if name not in one or name not in other:
            stages.append({"name": name, "only_in": "a" if name in one else "b", "changes": []})
            continue
        changes = list(_changes(one[name], other[name]))
        if changes or one[name].key != other[name].key:
            stages.append({"name": name, "only_in": None, "changes": changes})
    return {
        "a": a.name,
        "b": b.name,
        "params": _pairs(a.plan.params, b.plan.params),
        "stages": stages,
        "checks": _pairs(_texts(a.plan), _texts(b.plan)),
        "versions": _pairs(a.plan.versions, b.plan.versions),
        "results": list(_results(a, b)),
    }


def _flat(plan: Plan) -> Iterator[tuple[str, PlannedStage]]:
    for stage in plan.stages:
        yield stage.name, stage
        for inner in stage.body:
            yield f"{stage.name}.{inner.name}", inner


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any], lead: str = "") -> list[dict[str, Any]]:
    return [
        {"field": f"{lead}{name}", "a": old.get(name), "b": new.get(name)}
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _changes(old: PlannedStage, new: PlannedStage) -> Iterator[dict[str, Any]]:
    if old.verb != new.verb:
        yield {"field": "verb", "a": old.verb, "b": new.verb}
        return
    yield from _pairs(old.settings, new.settings)
    yield from _pairs(_inputs(old), _inputs(new), "input ")
    if old.formula != new.formula:
        names = [x.formula["name"] if x.formula else None for x in (old, new)]
        before, after = (dict(x.formula["params"]) if x.formula else {} for x in (old, new))
        found = _pairs(before, after, "algorithm ")
        yield from found or [{"field": "algorithm", "a": names[0], "b": names[1]}]
    if old.reward != new.reward:
        yield {"field": "reward", "a": old.reward, "b": new.reward}
    if sorted(old.files.values()) != sorted(new.files.values()):
        yield {"field": "files", "a": sorted(old.files), "b": sorted(new.files)}


def _inputs(stage: PlannedStage) -> dict[str, str]:
    return {
        port: f"{ref.stage}.{ref.view}" if ref.view else ref.stage
        for port, ref in stage.inputs.items()
    }


def _texts(plan: Plan) -> dict[str, bool]:
    return {check.text: True for check in plan.checks}


def _results(a: Side, b: Side) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys([*a.reports, *b.reports]):
        row: dict[str, Any] = {"stage": name}
        items = [x.reports[name].per_item() if name in x.reports else None for x in (a, b)]
        for which, scores in zip(("a", "b"), items, strict=True):
            row[which] = None
            if scores:
                mean, low, high = mean_ci95(list(scores.values()))
                row[which] = {"mean": mean, "ci95": [low, high], "items": len(scores)}
        one, other = items
        if one and other and one.keys() == other.keys():
            values = [other[key] for key in one], list(one.values())
            mean, low, high, verdict = paired_difference(*values, 0.95)
            row["difference"] = {"mean": mean, "ci95": [low, high], "verdict": verdict}
        yield row


def comparison_text(found: Mapping[str, Any]) -> str:
    """The comparison for a person."""
    lines = [f"a  {found['a']}", f"b  {found['b']}"]
    for head in ("params", "versions"):
        if found[head]:
            lines += ["", head, *(f"  {_line(row)}" for row in found[head])]
    if found["stages"]:
        lines += ["", "stages"]
    for stage in found["stages"]:
        if stage["only_in"]:
            lines.append(f"  {stage['name']}  only in {stage['only_in']}")
            continue
        inner = any(other["name"].startswith(f"{stage['name']}.") for other in found["stages"])
        same = "what it repeats differs" if inner else "only its inputs differ"
        words = [_line(row) for row in stage["changes"]] or [same]
        lines += [f"  {stage['name']}  {words[0]}", *(f"    {word}" for word in words[1:])]
    for row in found["checks"]:
        lines.append(f"  check {row['field']}  only in {'a' if row['a'] else 'b'}")
    if found["results"]:
        lines += ["", "results", *(f"  {_result(row)}" for row in found["results"])]
    if not any(found[head] for head in ("params", "versions", "stages", "checks")):
        lines += ["", "the same parameters, settings and stages"]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    one, other = (json.dumps(row[which], ensure_ascii=False) for which in ("a", "b"))
    if len(one) + len(other) > 80:
        return f"{row['field']} differs"
    return f"{row['field']}: {one} → {other}"


def _result(row: Mapping[str, Any]) -> str:
    sides = []
    for which in ("a", "b"):
        found = row[which]
        if found is None:
            sides.append("not there")
        else:
            low, high = found["ci95"]
            sides.append(f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]")
    text = f"{row['stage']}  {sides[0]} → {sides[1]}"
    if "difference" in row:
        low, high = row["difference"]["ci95"]
        text += (
            f"  difference {row['difference']['mean']:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"{row['difference']['verdict']}"
        )
    return text
