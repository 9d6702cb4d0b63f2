"""Data sources: a file or a generated environment becomes items, split by prompt.

In come the settings of `jsonl`, `csv`, `parquet` or `environment`; out comes `Data`. Rows are
streamed; every fault of a row is told with its file and line. Nothing is tokenized here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from grape.compiler.templates import Template, as_text, parse_template
from grape.dsl.nearest import did_you_mean
from grape.runtime.artifacts import Data, Item
from grape.runtime.context import Context
from grape.runtime.environments import build_tasks, entries
from grape.runtime.errors import StageError
from grape.runtime.hub import read_hub
from grape.runtime.rows import READERS, Row, plain

TEXT_PARTS = ("prompt", "completion", "chosen", "rejected", "answer")
PARTS = (*TEXT_PARTS, "messages", "desirable")


def run(context: Context, inputs: dict[str, Any]) -> Data:
    """Read, fill the templates, split. Raises StageError, see the module's description."""
    assert not inputs, "a data source has no inputs"
    settings = context.stage.settings
    if context.stage.verb == "environment":
        return run_environment(settings)
    shown = settings["path"]
    if context.stage.verb == "hf":
        rows = read_hub(settings, context.project)
    else:
        path = context.project / shown
        _check_file(path, shown)
        rows = READERS[context.stage.verb](path, shown)
    items = items_of(islice(rows, settings["limit"]), settings, shown)
    if not items:
        raise StageError(
            f"`{shown}` has no rows", hint="write at least one row, or name another file"
        )
    return Data(items, _views(items, settings["split"], settings["seed"], shown))


def items_of(rows: Iterator[Row], settings: Mapping[str, Any], shown: str) -> list[Item]:
    """Rows with the templates of `settings` filled. Raises StageError with the row's place."""
    return _items(rows, _templates(settings), shown)


def run_environment(settings: Mapping[str, Any]) -> Data:
    """Generated tasks. Raises StageError when there are none of that name."""
    keys = ("name", "options", "size", "seed")
    environment = {key: settings[key] for key in keys}
    tasks = build_tasks(environment)
    rows = ((f"task {index}", {**plain(row), "index": index}) for index, row in entries(tasks))
    items = _items(rows, _templates(settings), settings["name"])
    views = _views(items, settings["split"], settings["seed"], settings["name"])
    return Data(items, views, environment)


def _check_file(path: Path, shown: str) -> None:
    if path.is_dir():
        raise StageError(f"`{shown}` is a folder, not a file", hint="name a file in it")
    if not path.is_file():
        folder = path.parent
        beside = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        raise StageError(
            f"there is no file `{shown}`{did_you_mean(path.name, beside)}",
            hint=f"it was looked for at `{path}`; a path starts at the pipeline file's folder",
        )


def _templates(settings: Mapping[str, Any]) -> dict[str, Template]:
    made = {}
    for part in PARTS:
        text = settings.get(part)
        if text is None:
            continue
        try:
            made[part] = parse_template(text)
        except ValueError as error:
            raise StageError(f"`{part}`: {error}") from None
    return made


def _items(rows: Iterator[Row], templates: dict[str, Template], shown: str) -> list[Item]:
    items: list[Item] = []
    seen: Counter[str] = Counter()
    for place, row in rows:
        values = {part: _value(part, templates.get(part), row, place, shown) for part in PARTS}
        id_ = _digest(values, row)
        seen[id_] += 1
        if seen[id_] > 1:
            id_ = f"{id_}-{seen[id_]}"
        items.append(Item(id=id_, columns=row, **values))
    return items


def _value(
    part: str, template: Template | None, row: dict[str, Any], place: str, shown: str
) -> Any:
    """The part of one row; without a template, the column of the same name where there is one."""
    where = f"`{shown}`, {place}"
    if template is None:
        if row.get(part) is None:
            return None
        template = Template(((None, part),))
    for column in template.columns:
        if column not in row:
            raise StageError(
                f"{where} has no column `{column}`, which the template of `{part}` names"
                f"{did_you_mean(column, row)}",
                hint=f"its columns are {', '.join(row)}" if row else "the row has no columns",
            )
    if template.only is not None:
        if row[template.only] is None and part == "answer":
            return None
        if part == "messages":
            return _messages(row[template.only], template.only, where)
        if part == "desirable":
            return _desirable(row[template.only], template.only, where)
    if part in ("messages", "desirable"):
        raise StageError(
            f"the template of `{part}` must be one column and nothing else",
            hint=f'write `{part} = "{{column}}"`',
        )
    for column in template.columns:
        if row[column] is None:
            raise StageError(
                f"{where} has no value in column `{column}`, which the template of `{part}` needs",
                hint="fill it in, or leave the row out",
            )
    return template.render(row)


def _messages(value: Any, column: str, where: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    fine = isinstance(value, list) and value
    if fine and all(
        isinstance(turn, dict) and "role" in turn and "content" in turn for turn in value
    ):
        return list(value)
    raise StageError(
        f"{where}: column `{column}` holds no conversation",
        hint='a conversation is a list such as [{"role": "user", "content": "Hello"}]',
    )


_TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def _desirable(value: Any, column: str, where: str) -> bool:
    truth = _TRUTH.get(as_text(value).strip().lower())
    if truth is None:
        raise StageError(
            f"{where}: column `{column}` holds {as_text(value)[:40]!r}, which is neither true nor "
            "false",
            hint="write true or false (or 1 and 0)",
        )
    return truth


def _digest(values: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    content = json.dumps([values, row], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _views(items: list[Item], split: float | None, seed: int, shown: str) -> dict[str, list[int]]:
    """Whole prompts on one side: unique prompts ordered by a hash, the first share to train."""
    if split is None:
        return {"train": list(range(len(items)))}
    prompts = [_prompt_of(item) for item in items]
    order = sorted(set(prompts), key=lambda prompt: _rank(seed, prompt))
    count = round(split * len(order))
    if not 0 < count < len(order):
        raise StageError(
            f"`split = {split:.0%}` of the {len(order)} different prompts of `{shown}` leaves "
            f"{'`.train`' if count == 0 else '`.test`'} empty",
            hint="use more rows or another split",
        )
    train = set(order[:count])
    views: dict[str, list[int]] = {"train": [], "test": []}
    for index, prompt in enumerate(prompts):
        views["train" if prompt in train else "test"].append(index)
    return views


def _prompt_of(item: Item) -> str:
    if item.prompt is not None:
        return item.prompt
    if item.messages is None:
        return item.id
    asked = item.messages[:-1] if item.messages[-1]["role"] == "assistant" else item.messages
    return json.dumps(asked, sort_keys=True, ensure_ascii=False)


def _rank(seed: int, prompt: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{prompt}".encode("utf-8", "surrogatepass")).digest()
