"""What is checked of the rewards that read files or run programs, without running anything.

`GRADERS` maps a reward to its check of parameters; `reward_files` names the files whose content
is part of what the reward means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grape.compiler.names import is_path, refuse
from grape.dsl.source import Span

Check = Callable[[Mapping[str, Any], Span, Path], None]


def reward_files(name: str, params: Mapping[str, Any]) -> list[str]:
    """Files and folders of the project that a call of a built-in reward reads."""
    if name == "python":
        return [params["source"].rpartition(":")[0]]
    if name == "json_schema" and not _is_inline(params["schema"]):
        return [params["schema"]]
    if name == "sql" and params["database"] is not None:
        return [params["database"]]
    if name == "classifier" and isinstance(params["source"], str):
        return [] if params["source"].startswith("hf:") else [params["source"]]
    return []


def _is_inline(schema: str) -> bool:
    return schema.lstrip().startswith("{")


def _inside(text: str, span: Span, project: Path) -> Path:
    if not is_path(text):
        refuse("G702", "the path of what this reward reads is no path", span)
    place = (project / text).resolve()
    if not place.is_relative_to(project.resolve()):
        hint = "what a reward reads stays inside the folder of the pipeline file"
        refuse("G702", f'"{text}" lies outside the project folder', span, hint=hint)
    return place


def _schema(params: Mapping[str, Any], span: Span, project: Path) -> None:
    text = params["schema"]
    if not _is_inline(text):
        file = _inside(text, span, project)
        if not file.is_file():
            refuse("G113", f'there is no file "{text}"', span)
        text = file.read_text(encoding="utf-8", errors="replace")
    try:
        made = json.loads(text)
    except ValueError as error:
        refuse("G202", f"the schema is no JSON: {error}", span)
    if not isinstance(made, dict):
        refuse("G202", "the schema is a JSON object: `{…}`", span)


def _sql(params: Mapping[str, Any], span: Span, project: Path) -> None:
    if (params["database"] is None) == (params["schema"] is None):
        hint = 'name a file, `database = "shop.sqlite"`, or a column of tables, `schema = "ddl"`'
        refuse("G203", "`sql` needs either `database` or `schema`", span, hint=hint)
    if params["database"] is not None:
        file = _inside(params["database"], span, project)
        if not file.is_file():
            refuse("G113", f'there is no file "{params["database"]}"', span)
    _positive("timeout", params, span)


def _unit_tests(params: Mapping[str, Any], span: Span, project: Path) -> None:
    _positive("timeout", params, span)
    least = 64 * 1024**2
    if params["memory"] < least:
        refuse("G202", "`memory` is at least 64MiB: Python itself needs that much", span)


def _positive(name: str, params: Mapping[str, Any], span: Span) -> None:
    if params[name] <= 0:
        refuse("G202", f"`{name}` must be greater than 0", span)


def _classifier(params: Mapping[str, Any], span: Span, project: Path) -> None:
    source = params["source"]
    if not isinstance(source, str):  # a model of the pipeline
        for name, default in (("label", None), ("reads", "both")):
            if params[name] != default:
                message = f"`{name}` is for a classifier of files; a score head has one score"
                refuse("G203", message, span, hint=f"leave `{name}` out")
        return
    if source.startswith("hf:"):
        if source.removeprefix("hf:").partition("@")[0].count("/") != 1:
            message = f'"{source}" names no model of the hub'
            refuse("G111", message, span, hint="write `hf:organisation/name`")
        return
    folder = _inside(source, span, project)
    if not (folder / "config.json").is_file():
        hint = "a classifier is a folder with a config.json, or `hf:organisation/name`"
        refuse("G111", f'there is no model "{source}"', span, hint=hint)


GRADERS: dict[str, Check] = {
    "json_schema": _schema,
    "sql": _sql,
    "unit_tests": _unit_tests,
    "classifier": _classifier,
}
