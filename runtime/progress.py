"""Progress of a run: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from grape.compiler.plan import Plan

_MARKS = {
    "cached": "[dim]·[/]",
    "completed": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "cancelled": "[yellow]−[/]",
    "running": "[cyan]▸[/]",
    "": " ",
}
_LINE_SECONDS = 10.0


class Progress:
    """Shows events of a run on a stream; a context manager."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self.states = {stage.name: "" for stage in plan.stages}
        self.verbs = {stage.name: stage.verb for stage in plan.stages}
        self.region = {inner.name: stage.name for stage in plan.stages for inner in stage.body}
        self.started: dict[str, float] = {}
        self.texts: dict[str, str] = {}
        self.spoken: dict[str, float] = {}
        self.console = Console(file=stream, highlight=False)
        self.live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(self._table(), console=self.console, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            self.live.update(self._table())
            self.live.stop()

    def event(self, event: dict[str, Any]) -> None:
        """Take one event; called from any thread."""
        kind = event["event"]
        name = event.get("stage", "")
        if kind == "started":
            self.states[name] = "running"
            self.started[name] = time.monotonic()
            self._line(name, "started", always=True)
        elif kind == "settled":
            self.states[name] = event["state"]
            took = "" if event["state"] == "cached" else f" in {_span(event['seconds'])}"
            self.texts[name] = f"{event['state']}{took}"
            self._line(name, self.texts[name], always=True)
        elif kind == "progress":
            self._progress(name, event)
        elif kind == "note":
            self.console.print(f"  {event['text']}", style="dim", markup=False)
        if self.live:
            self.live.update(self._table())

    def _progress(self, name: str, event: dict[str, Any]) -> None:
        top = self.region.get(name, name)
        if top not in self.started:
            return
        done, total = event["done"], event["total"]
        text = f"{done}/{total} {event['unit']}"
        if top == name and done:
            passed = time.monotonic() - self.started[top]
            rate = done / passed
            left = (total - done) / rate
            each = f"{rate:.2g}/s" if rate >= 1 else f"{1 / rate:.2g} s each"
            text += f", {each}, {_span(left)} left"
            self.texts[top] = text
            self._line(top, text)

    def _line(self, name: str, text: str, *, always: bool = False) -> None:
        """A plain line, at most one per stage and ten seconds unless it must be said."""
        now = time.monotonic()
        if self.live or (not always and now - self.spoken.get(name, -1e9) < _LINE_SECONDS):
            return
        self.spoken[name] = now
        self.console.print(f"{name}: {text}", markup=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, state in self.states.items():
            text = self.texts.get(name, "")
            if state == "running" and not text:
                text = _span(time.monotonic() - self.started[name])
            table.add_row(_MARKS[state], name, f"[dim]{self.verbs[name]}[/]", text)
        return table


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
