"""The report of a run: one HTML page that needs nothing else.

In come the plan, the folder of the run and the store; out goes `report.html`. Tables are written
here; curves and the browser of samples are drawn by the page itself from JSON inside it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from grape.compiler.draw.svg import after
from grape.compiler.estimates.ranges import size
from grape.compiler.plan import Plan, PlannedStage
from grape.runtime.artifacts import Report, read_lines
from grape.runtime.rounds import ENDED, REPORTS
from grape.runtime.stats import mean_ci95
from grape.runtime.store import Store

PAGE = Path(__file__).with_name("report_page.html")
MOST_SAMPLES = 400
MOST_POINTS = 600
NOT_CURVES = ("event", "stage", "round", "update", "seconds", "tokens")
WORDS = {"cached": "from the store", "run": "not reached", "check-failed": "check failed"}


def write_report(plan: Plan, run_folder: Path, store: Store, *, graph_svg: str) -> Path:
    """Write the page into the folder of the run and return its path.

    Raises FileNotFoundError when the folder has no `run.json`.
    """
    state = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    keys = {name: entry.get("key", "") for name, entry in state.get("stages", {}).items()}
    folders = {name: store.path(key) for name, key in keys.items() if key and store.has(key)}
    reports = {
        name: Report.load(folder)
        for name, folder in folders.items()
        if (folder / "scores.jsonl").is_file()
    }
    data = {
        "curves": _curves(run_folder / "metrics"),
        "samples": _samples(run_folder / "samples", folders, reports),
    }
    sections = {
        "TITLE": escape(f"{plan.pipeline} · {state.get('id', run_folder.name)}"),
        "HEADER": _header(plan, state),
        "GRAPH": after(graph_svg, _outcomes(state))
        or '<p class="quiet">The graph of this run was not drawn.</p>',
        "RESULTS": _results(reports) + _rounds(folders),
        "CHECKS": _checks(plan, state),
        "ESTIMATES": _estimates(plan, state),
        "STAGES": "".join(_stage(stage, state) for stage in (*plan.stages, *plan.skipped)),
        "ENVIRONMENT": _table(sorted(plan.versions.items())),
        "PARAMS": _table(_params(plan)),
        "DATA": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    }
    # One pass over the template: text of the run that looks like a mark stays text.
    pieces = PAGE.read_text(encoding="utf-8").split("@@")
    page = "".join(sections[piece] if index % 2 else piece for index, piece in enumerate(pieces))
    target = run_folder / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


# --- tables -----------------------------------------------------------------------------------


def _header(plan: Plan, state: dict[str, Any]) -> str:
    word = str(state.get("state", "unknown"))
    facts = [
        ("file", plan.file),
        ("run", state.get("id", "")),
        ("started", _clock(state.get("started"))),
        ("took", _took(state)),
        ("output", ", ".join(state.get("outputs", [])) or "none"),
    ]
    cells = "".join(f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts if v)
    return (
        f"<h1>{escape(plan.pipeline)} {_pill(word)}</h1>{_doc(plan.doc)}"
        f"<dl class=facts>{cells}</dl>{_error(state)}"
    )


def _outcomes(state: dict[str, Any]) -> dict[str, str]:
    return {name: entry["state"] for name, entry in state.get("stages", {}).items()}


def _doc(text: str | None) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _params(plan: Plan) -> list[tuple[str, Any]]:
    """Parameters, and who set those that are not the default; of a secret only its name."""
    rows = []
    for name, value in sorted(plan.params.items()):
        layer = plan.layers.get(name, "default")
        shown = layer if isinstance(value, dict) else _shown(value)
        came = "" if layer in ("default", shown) else f"  ({layer})"
        rows.append((name, shown + came))
    return rows


def _error(state: dict[str, Any]) -> str:
    if not state.get("error"):
        return ""
    hint = f"<p>{escape(state['hint'])}</p>" if state.get("hint") else ""
    return f"<section class=wrong><pre>{escape(state['error'])}</pre>{hint}</section>"


def _pill(word: str) -> str:
    return f'<span class="pill {_tone(word)}">{escape(WORDS.get(word, word))}</span>'


def _tone(word: str) -> str:
    good, bad = ("completed", "cached", "pass"), ("failed", "fail", "check-failed")
    return "good" if word in good else "bad" if word in bad else "open"


def _moment(value: object) -> datetime | None:
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value).astimezone()
    return datetime.fromisoformat(value) if isinstance(value, str) and value else None


def _clock(value: object) -> str:
    moment = _moment(value)
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def _took(state: dict[str, Any]) -> str:
    start, end = _moment(state.get("started")), _moment(state.get("ended"))
    return _duration((end - start).total_seconds()) if start and end else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _results(reports: dict[str, Report]) -> str:
    if not reports:
        return '<p class="quiet">This run has no evaluation.</p>'
    rows = []
    for name, report in reports.items():
        lines = {"reward": list(report.per_item().values()), **_parts(report)}
        if len(lines) == 2 and not any(
            score.category for score in report.scores
        ):  # a single part is the reward itself
            lines = {"reward": lines["reward"]}
        for part, values in lines.items():
            rows.append(_result(name if part == "reward" else "", part, values))
    head = "<tr><th>evaluation<th>reward<th>mean<th>95 % interval<th><th>items</tr>"
    return f"<table class=results><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _rounds(folders: dict[str, Path]) -> str:
    """What the rounds of repeats measured, and what ended them."""
    tables = []
    for name, folder in folders.items():
        kept = folder / REPORTS
        if not kept.is_dir():
            continue
        rows = [
            _result(
                f"{name} · {stage.name}" if number == 0 else "",
                f"round {int(place.name)}",
                list(Report.load(place).per_item().values()),
            )
            for stage in sorted(item for item in kept.iterdir() if item.is_dir())
            for number, place in enumerate(sorted(stage.iterdir()))
        ]
        ended = json.loads((kept / ENDED).read_text(encoding="utf-8"))
        why = f": {ended['until']}" if ended["until"] else ""
        foot = f"<p class=quiet>{escape(name)}: {ended['rounds']} rounds{escape(why)}</p>"
        head = "<tr><th>in a repeat<th><th>mean<th>95 % interval<th><th>items</tr>"
        table = f"<table class=results><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
        tables.append((table if rows else "") + foot)
    return "".join(tables)


def _parts(report: Report) -> dict[str, list[float]]:
    """Each part with its mean on every evaluation item; under a rubric by category, and beside each
    score how sure it is."""
    lines: dict[str, list[float]] = {}
    for category in dict.fromkeys(score.category for score in report.scores):
        scores = [score for score in report.scores if score.category == category]
        for name in dict.fromkeys(name for score in scores for name in score.parts):
            label = name if category is None else f"{category} · {name}"
            values = [value for score in scores for value in score.part(name)]
            if values:
                lines[label] = values
            sure = [c for score in scores for c in score.confidences.get(name, ()) if c is not None]
            if sure and min(sure) < 1:
                lines[f"{label} · confidence"] = sure
    return lines


def _result(name: str, part: str, values: list[float]) -> str:
    mean, low, high = mean_ci95(values)
    bar = ""
    if 0 <= mean <= 1:
        left, right = 100 * max(0.0, low), 100 * min(1.0, high)
        bar = (
            f'<span class=bar><i style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
            f'<b style="left:{100 * mean:.2f}%"></b></span>'
        )
    kind = "main" if name else "part"
    return (
        f"<tr class={kind}><td>{escape(name)}<td>{escape(part)}<td class=n>{mean:.4f}"
        f"<td class=n>{low:.4f} – {high:.4f}<td>{bar}<td class=n>{len(values)}</tr>"
    )


def _checks(plan: Plan, state: dict[str, Any]) -> str:
    done = {entry.get("text"): entry for entry in state.get("checks", [])}
    if not plan.checks:
        return '<p class="quiet">This pipeline has no check.</p>'
    rows = []
    for check in plan.checks:
        entry = done.get(check.text, {})
        rows.append(
            f"<tr><td><code>{escape(check.text)}</code>"
            f"<td>{_pill(entry.get('verdict', 'not reached'))}"
            f"<td>{escape(entry.get('detail') or '')}{_doc(check.doc)}</tr>"
        )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _table(pairs: list[tuple[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(key)}<td><code>{escape(_shown(value))}</code></tr>"
        for key, value in pairs
    )
    return f"<table class=pairs>{rows}</table>" if rows else '<p class="quiet">None.</p>'


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cost(entry: dict[str, Any]) -> str:
    """Time and peak memory of making the artifact, in this run or in the one that made it."""
    seconds = entry.get("made_in_seconds", entry.get("seconds"))
    if seconds is None:
        return ""
    peak, processes = entry.get("peak_bytes"), entry.get("processes", 1)
    beside = f" · {processes} processes" if processes > 1 else ""
    return _duration(seconds) + (f" · {peak / 2**30:.2f} GiB" if peak else "") + beside


def _estimates(plan: Plan, state: dict[str, Any]) -> str:
    """What was estimated before the run beside what was measured, of the stages that it made."""
    rows = []
    for stage in plan.stages:
        entry = state.get("stages", {}).get(stage.name, {})
        memory, peak = stage.estimate.get("memory"), entry.get("peak_bytes")
        if memory is None or not peak or entry.get("state") != "completed":
            continue
        seconds = stage.estimate.get("seconds")
        expected = "" if seconds is None else _duration(seconds)
        inside = memory["low"] <= peak <= memory["high"]
        rows.append(
            f"<tr><td>{escape(stage.name)}<td class=n>{size(memory['expected'])}"
            f"<td class=n>{size(memory['low'])} – {size(memory['high'])}<td class=n>{size(peak)}"
            f"<td class=n>{peak / memory['expected'] - 1:+.0%}"
            f"<td>{'' if inside else 'outside'}<td class=n>{expected}"
            f"<td class=n>{_duration(entry['made_in_seconds'])}</tr>"
        )
    if not rows:
        return '<p class="quiet">No stage that this run made has an estimate.</p>'
    head = (
        "<tr><th>stage<th>peak memory, estimated<th>low – high<th>measured<th>off<th>"
        "<th>time, expected<th>measured</tr>"
    )
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _stage(stage: PlannedStage, state: dict[str, Any]) -> str:
    made = stage.state != "skipped"  # one that is not may share its name with one that is
    entry = state.get("stages", {}).get(stage.name, {}) if made else {}
    word = str(entry.get("state", stage.state))
    time = _cost(entry)
    inside = "".join(_stage(inner, state) for inner in stage.body)
    reason = escape(str(entry.get("reason") or stage.reason))
    pill = _pill(word) if stage.key or word == "skipped" else ""
    settings = _table(sorted(stage.settings.items()))
    return (
        f"<details class=stage><summary><b>{escape(stage.name)}</b> "
        f"<code>{escape(stage.verb)}</code>{pill}<span class=time>{time}</span></summary>"
        f"{_doc(stage.doc)}<p class=quiet>{reason}</p>{settings}{inside}</details>"
    )


# --- what the page draws ----------------------------------------------------------------------


def _curves(folder: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Stage to name to points [x, y]; x counts the updates of the stage from 1."""
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        for x, row in enumerate(read_lines(path), 1):
            lines = curves.setdefault(str(row.get("stage", path.stem)), {})
            for name, value in row.items():
                if name not in NOT_CURVES and _finite(value):
                    lines.setdefault(name, []).append([x, value])
    return {
        stage: {name: _thinned(points) for name, points in lines.items() if len(points) > 1}
        for stage, lines in curves.items()
    }


def _finite(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(float(value)) < float("inf")  # type: ignore[arg-type]


def _thinned(points: list[list[float]]) -> list[list[float]]:
    """At most so many points as a curve can show, evenly spread, the last one kept."""
    step = -(-len(points) // MOST_POINTS)
    kept = points[::step]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _samples(
    seen: Path, folders: dict[str, Path], reports: dict[str, Report]
) -> list[dict[str, Any]]:
    """Sets of samples: each with its name, how many there are in all, and the first rows. `seen`
    holds what the rounds of repeats showed while they ran: one group of each, spread evenly."""
    sets = []
    for name, report in reports.items():
        rows = list(islice(_of_report(report), MOST_SAMPLES))
        total = sum(len(score.texts) for score in report.scores)
        sets.append({"name": name, "total": total, "rows": rows})
    for name, folder in folders.items():
        for path in sorted(folder.rglob("rollouts.jsonl")):
            found = list(read_lines(path))
            rows = [_of_rollout(row) for row in found[:MOST_SAMPLES]]
            label = name if path.parent == folder else f"{name} · {path.parent.name}"
            sets.append({"name": label, "total": len(found), "rows": rows})
    for path in sorted(seen.glob("*.jsonl")) if seen.is_dir() else ():
        rounds = defaultdict(list)
        for row in read_lines(path):
            rounds[row["round"]].append(_of_rollout(row))
        step = max(1, -(-sum(map(len, rounds.values())) // MOST_SAMPLES))
        for number in list(rounds)[::step]:
            label = f"{path.stem} · round {number + 1}"
            sets.append({"name": label, "total": len(rounds[number]), "rows": rounds[number]})
    return sets


def _of_report(report: Report) -> Iterator[dict[str, Any]]:
    for score in report.scores:
        for index, text in enumerate(score.texts):
            yield {
                "prompt": score.prompt,
                "answer": score.answer,
                "text": text,
                "reward": score.rewards[index],
                "parts": {
                    part: v[index] for part, v in score.parts.items() if v[index] is not None
                },
                "cut": score.truncated[index],
                "turns": score.turns[index] if score.turns else [],
            }


def _of_rollout(row: dict[str, Any]) -> dict[str, Any]:
    names = ["prompt", "answer", "text", "reward", "parts"]
    if row.get("critique"):
        names += ["critique", "revises"]
    shown = {name: row[name] for name in names}
    return {**shown, "cut": row["truncated"], "turns": row.get("turns", [])}
