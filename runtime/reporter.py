"""Progress of stages as Prefect artifacts: a percentage and the last metrics of each stage.

A thread of its own sends the newest value now and then. Nothing waits for it, and a server that
does not answer costs nothing but the picture.
"""

from __future__ import annotations

import re
import threading
from typing import Any
from uuid import UUID

SECONDS = 3.0
"""Between two reports."""


_NO_KEY = re.compile(r"[^a-z0-9]+")
"""What Prefect allows in no key of an artifact."""


class Reporter:
    """Takes events from any thread; newest value wins."""

    def __init__(self, flow_run: UUID) -> None:
        self._flow_run = flow_run
        self._tasks: dict[str, UUID] = {}
        self._sent: dict[str, UUID] = {}
        self._share: dict[str, float] = {}
        self._metrics: dict[str, str] = {}
        self._fresh: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def began(self, stage: str, task_run: UUID) -> None:
        """Which task run the artifacts of a stage belong to."""
        with self._lock:
            self._tasks[stage] = task_run

    def take(self, event: dict[str, Any]) -> None:
        """Remember what an event says about a stage that is a task."""
        stage = event.get("region", event.get("stage", ""))
        with self._lock:
            if stage not in self._tasks:
                return
            if event["event"] == "progress" and event["stage"] == stage:
                self._share[stage] = 100.0 * event["done"] / max(event["total"], 1)
            elif event["event"] == "metrics":
                self._metrics[stage] = describe(event)
                self._share.setdefault(stage, 0.0)
            elif event["event"] == "settled" and stage in self._share:
                if event["state"] == "completed":
                    self._share[stage] = 100.0
            else:
                return
            self._fresh.add(stage)

    def close(self) -> None:
        """Send what is left, but wait for it no longer than a moment."""
        self._closed.set()
        self._thread.join(2.0)

    def _work(self) -> None:
        import httpx
        from prefect.exceptions import PrefectException

        done = False
        while not done:
            done = self._closed.wait(SECONDS)
            with self._lock:
                fresh, self._fresh = self._fresh, set()
            for stage in fresh:
                try:
                    self._send(stage)
                except (PrefectException, httpx.HTTPError, OSError, RuntimeError):
                    continue

    def _send(self, stage: str) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        with self._lock:
            share, text = self._share.get(stage, 0.0), self._metrics.get(stage, stage)
        with get_client(sync_client=True) as client:
            if stage in self._sent:
                update = ArtifactUpdate(data=share, description=text)
                client.update_artifact(self._sent[stage], update)
                return
            create = ArtifactCreate(
                key="grape-" + _NO_KEY.sub("-", stage.lower()).strip("-"),
                type="progress",
                data=share,
                description=text,
                flow_run_id=self._flow_run,
                task_run_id=self._tasks[stage],
            )
            self._sent[stage] = client.create_artifact(create).id


def describe(event: dict[str, Any]) -> str:
    """The logged values of a metrics event, in one line."""
    about = ("event", "stage", "region", "round", "update", "seconds", "tokens")
    return ", ".join(
        f"{name} {value:.4g}"
        for name, value in event.items()
        if name not in about and isinstance(value, (int, float))
    )
