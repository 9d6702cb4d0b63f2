"""Names of secrets are found in settings; values are revealed at the moment of use and scrubbed."""

from __future__ import annotations

import pytest

from grape.compiler.plan import PlannedStage
from grape.runtime.errors import StageError
from grape.runtime.secrets import names_in, reveal, scrubbed

VALUE = "hunter2-0123456789-very-secret"


def test_names_are_found_and_values_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"token": {"secret": "GRAPE_TEST_KEY"}, "path": "x"}
    stage = PlannedStage(name="d", verb="hf", type="Data", inputs={}, settings=settings)
    assert names_in([stage]) == ["GRAPE_TEST_KEY"]
    with pytest.raises(StageError, match="GRAPE_TEST_KEY"):
        reveal(settings["token"])  # type: ignore[arg-type]
    monkeypatch.setenv("GRAPE_TEST_KEY", VALUE)
    assert reveal({"secret": "GRAPE_TEST_KEY"}) == VALUE and reveal(None) is None
    event = {"event": "samples", "rows": [{"text": f"say {VALUE}"}], "n": 1}
    clean = scrubbed(event, ["GRAPE_TEST_KEY"])
    assert clean == {"event": "samples", "rows": [{"text": "say <GRAPE_TEST_KEY>"}], "n": 1}
