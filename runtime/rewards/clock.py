"""A call that may not take longer than some seconds, and calls that may not come too fast.

In the main thread an alarm interrupts the call wherever Python code or a regular expression runs;
elsewhere the call runs in a thread of its own, which is left behind when it is late.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType


class Late(BaseException):
    """The call took too long. No `Exception`, so that a user's `except Exception` lets it pass."""


def within_seconds(seconds: float, call: Callable[[], float]) -> float:
    """The value of `call()`. Raises `Late` after `seconds`, and whatever the call raises."""
    if threading.current_thread() is threading.main_thread():
        return _with_alarm(seconds, call)
    return _with_thread(seconds, call)


def _late(number: int, frame: FrameType | None) -> None:
    raise Late


def _with_alarm(seconds: float, call: Callable[[], float]) -> float:
    before = signal.signal(signal.SIGALRM, _late)
    # The alarm repeats, so that a bare `except:` in a loop cannot swallow it for good.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _with_thread(seconds: float, call: Callable[[], float]) -> float:
    made: list[float] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            made.append(call())
        except BaseException as error:  # handed to the caller
            failed.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not made:
        raise Late
    return made[0]


class Pace:
    """At most so many calls a minute, evenly spaced; None: no limit."""

    def __init__(self, per_minute: int | None) -> None:
        self.gap = 0.0 if per_minute is None else 60.0 / per_minute
        self.next = time.monotonic()

    def wait(self) -> None:
        """Return when the next call may begin."""
        if not self.gap:
            return
        now = time.monotonic()
        if self.next > now:
            time.sleep(self.next - now)
        self.next = max(self.next, now) + self.gap
