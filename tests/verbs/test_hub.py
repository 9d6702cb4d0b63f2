"""`hf` data through a stand-in for `datasets`: rows, parts, and every way out."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from grape.compiler.plan import PlannedStage
from grape.runtime.artifacts import Data
from grape.runtime.context import Context
from grape.runtime.errors import StageError
from grape.runtime.verbs import data

ROWS = [{"q": "1 + 1 =", "a": 2}, {"q": "1 + 2 =", "a": 3}]
PARTS = ("completion", "chosen", "rejected", "messages", "desirable", "split", "limit", "subset")


def load(folder: Path, path: str, **more: Any) -> Data:
    settings: dict[str, Any] = {
        **dict.fromkeys((*PARTS, "revision", "token")),
        "seed": 0,
        "path": path,
        "part": "train",
        "prompt": "{q}",
        "answer": "{a}",
        **more,
    }
    stage = PlannedStage(name="d", verb="hf", type="Data", inputs={}, settings=settings)
    return data.run(Context(stage, folder, folder, lambda event: None), {})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Installs the stand-in; what it was asked for."""
    calls: list[Any] = []
    library: Any = ModuleType("datasets")

    def load_dataset(path: str, subset: str | None, **more: Any) -> list[dict[str, Any]]:
        calls.append((path, subset, more))
        if path == "org/offline":
            raise ConnectionError("Couldn't reach the Hub")
        if path == "org/missing":
            raise FileNotFoundError("Dataset 'org/missing' doesn't exist")
        return ROWS

    library.load_dataset = load_dataset
    library.load_from_disk = lambda path: {"train": ROWS[:1], "test": ROWS}
    monkeypatch.setitem(sys.modules, "datasets", library)
    return calls


def test_rows_become_items(asked: list[Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GRAPE_TOKEN", "abc")
    token = {"secret": "GRAPE_TOKEN"}
    made = load(tmp_path, "org/sums", subset="small", revision="v1", token=token)
    assert [(item.prompt, item.answer) for item in made.items] == [
        ("1 + 1 =", "2"),
        ("1 + 2 =", "3"),
    ]
    assert asked == [("org/sums", "small", {"split": "train", "revision": "v1", "token": "abc"})]


def test_a_saved_folder_has_parts(asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    assert len(load(tmp_path, "./saved", part="test").items) == 2
    with pytest.raises(StageError, match=r"no part `tests`.*`test`") as caught:
        load(tmp_path, "./saved", part="tests")
    assert caught.value.hint == "its parts are train, test"
    assert asked == []


@pytest.mark.parametrize(
    ("path", "more", "message", "hint"),
    [
        ("org/offline", {}, "Couldn't reach", "cannot be reached"),
        ("org/missing", {}, "doesn't exist", "check its name"),
        ("org/sums", {"token": {"secret": "GRAPE_NOT_SET"}}, "GRAPE_NOT_SET", "export"),
    ],
)
def test_what_goes_wrong_has_a_way_out(
    asked: list[Any], tmp_path: Path, path: str, more: Any, message: str, hint: str
) -> None:
    with pytest.raises(StageError, match=message) as caught:
        load(tmp_path, path, **more)
    assert hint in str(caught.value.hint)


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StageError, match="needs the library `datasets`") as caught:
        load(tmp_path, "org/sums")
    assert "pip install 'grape-lang[hub]'" in str(caught.value.hint)
