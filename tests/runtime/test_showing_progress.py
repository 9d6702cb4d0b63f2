"""Progress for a person: what is said, how often, and with which rates."""

from __future__ import annotations

import io

import pytest

from grape.compiler.plan import Plan, PlannedStage
from grape.runtime import progress
from grape.runtime.progress import Progress


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def plan() -> Plan:
    inner = PlannedStage(name="next", verb="train", type="Model", inputs={}, settings={})
    region = PlannedStage(
        name="policy", verb="repeat", type="Model", inputs={}, settings={}, body=(inner,)
    )
    return Plan(edition=1, pipeline="p", file="f", project="d", params={}, stages=(region,))


def step(done: int) -> dict[str, object]:
    return {"event": "progress", "stage": "policy", "done": done, "total": 10, "unit": "rounds"}


def test_lines_tell_rate_remaining_time_and_metrics(clock: Clock) -> None:
    out = io.StringIO()
    with Progress(plan(), out) as shown:
        shown.event({"event": "started", "stage": "policy"})
        clock.now += 20
        values = {"round": 0, "update": 0, "loss": 0.5}
        shown.event({"event": "metrics", "stage": "next", "region": "policy", **values})
        shown.event(step(1))
        clock.now += 1
        shown.event(step(2))
        shown.event({"event": "settled", "stage": "policy", "state": "failed", "seconds": 21.0})
    assert out.getvalue().splitlines() == [
        "policy: started",
        "policy: 1/10 rounds, 20 s each, 3 min 0 s left, loss 0.5",
        "policy: failed in 21 s",
    ]


def test_a_resumed_stage_is_timed_from_where_it_went_on(clock: Clock) -> None:
    out = io.StringIO()
    shown = Progress(plan(), out)
    shown.event({"event": "started", "stage": "policy"})
    clock.now += 5
    shown.event(step(6))
    clock.now += 30
    shown.event(step(7))
    assert out.getvalue().splitlines()[-1] == "policy: 7/10 rounds, 30 s each, 1 min 30 s left"


def test_notes_are_passed_on_as_they_are() -> None:
    out = io.StringIO()
    Progress(plan(), out).event({"event": "note", "text": "[bold] is no markup here"})
    assert out.getvalue() == "  [bold] is no markup here\n"


def test_a_count_that_begins_anew_is_timed_by_itself(clock: Clock) -> None:
    out = io.StringIO()
    shown = Progress(plan(), out)
    shown.event({"event": "started", "stage": "policy"})
    for done, unit in ((5, "rounds"), (10, "rounds"), (2, "rounds"), (4, "judgements")):
        clock.now += 300
        shown.event({**step(done), "unit": unit})
    clock.now += 300
    shown.event({**step(6), "unit": "judgements"})
    assert out.getvalue().splitlines()[2:] == [
        "policy: 10/10 rounds, 60 s each, 0 s left",
        "policy: 2/10 rounds",
        "policy: 4/10 judgements",
        "policy: 6/10 judgements, 150 s each, 10 min 0 s left",
    ]
