"""The reward `json_schema`: a completion is JSON that a schema allows. Needs `jsonschema`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grape.runtime.artifacts import Completion
from grape.runtime.errors import StageError
from grape.runtime.rewards.extract import extracted
from grape.runtime.rewards.text import Scorer


def json_schema(params: Mapping[str, Any], project: Path) -> Scorer:
    """1 where the completion is one JSON document that the schema allows. Raises StageError for a
    schema that is none. References to other addresses are never followed."""
    try:
        from jsonschema import SchemaError, validators
        from referencing import Registry
    except ImportError:
        raise StageError(
            "the reward `json_schema` needs the package jsonschema",
            hint='install it: pip install "grape-lang[rewards]"',
        ) from None
    text: str = params["schema"]
    if not text.lstrip().startswith("{"):
        text = (project / text).read_text(encoding="utf-8")
    schema = json.loads(text)
    kind = validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise StageError(f"the schema of `json_schema` is none: {error.message}") from None
    empty: Any = Registry()
    validator = kind(schema, registry=empty)

    def scorer(row: Completion) -> float:
        try:
            made = json.loads(extracted(row.text, params["extract"]), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        return float(validator.is_valid(made))

    return scorer


def _refuse(word: str) -> None:
    """`NaN` and `Infinity` are Python's, not JSON's."""
    raise ValueError(word)
