"""What a worker imports before it starts, and the garbage collector afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from grape.runtime.verbs import ready


def test_the_collector_is_back_after_the_imports() -> None:
    ready(["score"])
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_the_collector_is_back_after_a_failed_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grape.runtime.verbs.merge", None)
    with pytest.raises(ImportError):
        ready(["merge"])
    assert gc.isenabled()
    gc.unfreeze()


def test_a_stage_of_text_alone_loads_no_torch() -> None:
    script = (
        "import sys; from grape.runtime.verbs import ready; ready(['jsonl', 'score', 'keep']); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
