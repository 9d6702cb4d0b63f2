"""Tools that a model may call while it is sampled, and the sampler that lets it: `turns(…)`.

The settings of both, and whether the functions are there: their files are parsed, never imported.
How a call is written and what comes back of it is `runtime.tools`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from grape.compiler.names import refuse
from grape.compiler.verb import Duration, Settings
from grape.dsl.source import Span

Count = Annotated[int, Field(ge=1)]


class PythonTool(Settings):
    """`python("FILE.py:FUNCTION")`: a function of the project; it runs only under `grape run`."""

    places: ClassVar[tuple[str, ...]] = ("source",)
    kind: Literal["python"] = "python"
    """Which tool."""
    source: str
    """The file and the function; the model calls it by the function's name."""


class Turns(Settings):
    """`sampler = turns(…)`: the model writes, a tool that it calls answers, and it goes on."""

    kind: Literal["turns"] = "turns"
    """Which sampler."""
    tools: Annotated[list[PythonTool], Field(min_length=1)]
    """What may be called: `[python("tools.py:calculator")]`."""
    max: Count = 4
    """Turns of the model; whoever calls a tool in the last one is cut off."""
    format: Literal["auto", "chat", "tags"] = "auto"
    """How a call is written: as the chat template says, or `<tool>name(arguments)</tool>`. By
    itself, as the template says where the data is `messages` and the template knows tools."""
    turn_tokens: Count | None = None
    """Longest turn in tokens; none: what is left of `max_tokens`."""
    max_result: Count = 64
    """Longest result in tokens; what is longer is cut."""
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """Longest time for one call."""
    on_error: Literal["tell", "stop"] = "tell"
    """What happens when a tool fails: the model reads why, or the run stops and shows the call."""


def sources(settings: Mapping[str, Any]) -> list[str]:
    """The `FILE.py:FUNCTION` of every tool that a stage's sampler offers."""
    sampler = settings.get("sampler") or {}
    return [tool["source"] for tool in sampler.get("tools", ())]


def check_turns(settings: Mapping[str, Any], spans: Mapping[str, Span], project: Path) -> None:
    """Refuse tools that are not there or cannot be called (G113, G262), stop texts that end a turn
    before its call does (G282), and lengths that leave no room (G283)."""
    from grape.compiler.python_reward import read_tool

    sampler, span = settings["sampler"], spans["sampler"]
    names: list[str] = []
    for tool in sampler["tools"]:
        name = read_tool(tool["source"], span, project)
        if name in names:
            message = f"two tools are called `{name}`, and a call names only one"
            refuse("G262", message, span, hint="give one of the functions another name")
        names.append(name)
    for stop in settings["stop"]:
        for call in _calls(sampler["format"], names):
            if stop and stop in call:
                message = f'the stop text "{stop}" is part of a call, `{call}`, and cuts it off'
                refuse("G282", message, spans["stop"], hint="leave it out: a call ends by itself")
    _check_room(settings, span)


def _calls(form: str, names: Sequence[str]) -> Iterator[str]:
    """How a call of each tool is written, without its arguments."""
    for name in names:
        if form != "chat":
            yield f"<tool>{name}()</tool>"
        if form != "tags":
            yield f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>'


def _check_room(settings: Mapping[str, Any], span: Span) -> None:
    sampler, most = settings["sampler"], settings["max_tokens"]
    if sampler["max"] == 1:
        message = "with `max = 1` no tool ever answers: the model writes one turn"
        refuse("G283", message, span, hint="write `max = 2` or more, or leave `sampler` out")
    for name in ("turn_tokens", "max_result"):
        if sampler[name] is not None and sampler[name] >= most:
            message = (
                f"`{name} = {sampler[name]}` leaves no room for another turn: "
                f"`max_tokens = {most}` holds all turns and results"
            )
            refuse("G283", message, span, hint=f"raise `max_tokens`, or lower `{name}`")
