"""Progress of a run: a live table in a terminal, plain lines elsewhere.

In come the events of `runtime.context` and the `started` and `settled` of stages, from any thread.
It remembers nothing for later: records and metrics are `runtime.run`'s.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grape.compiler.plan import Plan
from grape.runtime.reporter import describe

_MARKS = {
    "cached": ("·", "dim"),
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("−", "yellow"),
    "running": ("▸", "cyan"),
    "": (" ", ""),
}
_LINE_SECONDS = 10.0


@dataclass(slots=True)
class _Row:
    """What is known of one stage."""

    verb: str
    state: str = ""
    began: float = 0.0
    first: tuple[float, float] | None = None
    """Time and count of the first progress heard: a resumed stage does not begin at 0."""
    counted: tuple[str, float] = ("", 0.0)
    """The unit that is counted, and how far."""
    share: float = 0.0
    text: str = ""
    metrics: str = ""
    spoken: float = -1e9


class Progress:
    """Shows events of a run on a stream; a context manager."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self.rows = {stage.name: _Row(stage.verb) for stage in plan.stages}
        self.console = Console(file=stream, highlight=False)
        self.live: Live | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._table, console=self.console, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            self.live.stop()

    def event(self, event: dict[str, Any]) -> None:
        """Take one event; called from any thread."""
        if event["event"] == "note":
            text = f"  {event['text']}"
            self.console.print(text, style="dim", markup=False, soft_wrap=True)
            return
        top = event.get("region", event["stage"])
        with self._lock:
            self._take(event, top, self.rows[top])

    def _take(self, event: dict[str, Any], top: str, row: _Row) -> None:
        match event["event"]:
            case "started":
                row.state, row.began = "running", time.monotonic()
                self._line(top, row, "started", always=True)
            case "settled":
                row.state = event["state"]
                took = f" in {_span(event['seconds'])}" if event["seconds"] else ""
                row.text, row.metrics = f"{row.state}{took}", ""
                self._line(top, row, row.text, always=True)
            case "progress" if event["stage"] == top:
                self._advance(event, row)
                self._line(top, row, ", ".join(filter(None, (row.text, row.metrics))))
            case "metrics":
                row.metrics = describe(event)

    def _advance(self, event: dict[str, Any], row: _Row) -> None:
        """Share done, rate and remaining time, by what went on since the first progress heard."""
        done, total, now = event["done"], event["total"], time.monotonic()
        row.share = done / total if total else 1.0
        row.text = f"{done}/{total} {event['unit']}"
        unit, last = row.counted
        if row.first is None:
            row.first = (row.began, 0.0) if done <= 1 else (now, done)
        elif unit != event["unit"] or done < last:  # another count begins, such as the next item's
            row.first = (now, done)
        row.counted = (event["unit"], done)
        since, before = row.first
        if done > before and now > since:
            rate = (done - before) / (now - since)
            each = f"{_two_digits(rate)}/s" if rate >= 1 else f"{_two_digits(1 / rate)} s each"
            row.text += f", {each}, {_span((total - done) / rate)} left"

    def _line(self, name: str, row: _Row, text: str, *, always: bool = False) -> None:
        """A plain line, at most one per stage and ten seconds unless it must be said."""
        now = time.monotonic()
        if self.live or (not always and now - row.spoken < _LINE_SECONDS):
            return
        row.spoken = now
        self.console.print(f"{name}: {text}", markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for name, row in self.rows.items():
                mark, style = _MARKS[row.state]
                running = row.state == "running"
                waited = time.monotonic() - row.began
                table.add_row(
                    Text(mark, style=style),
                    Text(name),
                    Text(row.verb, style="dim"),
                    ProgressBar(total=1.0, completed=row.share, width=16) if running else "",
                    Text(row.text or (_span(waited) if running else "")),
                    Text(row.metrics, style="dim", no_wrap=True, overflow="ellipsis"),
                )
        return table


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
