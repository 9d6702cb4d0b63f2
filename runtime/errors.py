"""What a run says when something outside the program's logic goes wrong."""

from __future__ import annotations


class StageError(Exception):
    """A stage cannot go on for a reason the user can act on.

    `message` is one or two sentences in the user's words: what happened, where, and the way out.
    It reaches the user without a stack trace.
    """

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class UsageError(Exception):
    """A command was called in a way it cannot serve: exit code 2, one line, no stack trace."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
