"""The table of `make learn`: its pipelines are sound, its arithmetic is right, one of them runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from learn import recipes, task
from learn.figures import Bound, bound, outcome, verdict
from learn.page import Machine, Row, page, settings

from grape.compiler import program
from grape.compiler.algorithms import library, untrained
from grape.dsl.format import format_text
from grape.runtime.algorithm import algorithm

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", recipes.names())
def test_the_pipeline_of_every_online_algorithm_is_clean(name: str, tmp_path: Path) -> None:
    task.write_rows(tmp_path)
    text = recipes.pipeline(name)
    path = tmp_path / f"{name}.grape"
    path.write_text(text, encoding="utf-8")
    codes = [finding.code for finding in program.load(path).findings]
    assert codes == (["G309"] if untrained(recipes.formula_of(name).formula) else [])
    assert format_text(text) == text


def test_what_learns_from_rollouts_is_online_and_what_learns_from_data_is_not() -> None:
    listed = recipes.names()
    assert [name for name in library() if algorithm(name).on == "Rollouts"] == [
        name for name in listed if name in library() and name != "rebel"
    ]
    assert not {"sft", "dpo", "kto", "reward_model", "gkd"} & set(listed)


def test_what_is_chosen_by_hand_is_of_algorithms_that_are_listed() -> None:
    assert recipes.CHOSEN.keys() | recipes.REASONS.keys() <= set(recipes.names())
    assert {chosen.of for chosen in recipes.CHOSEN.values()} <= {"", *recipes.names()}


def test_the_task_is_the_same_every_time_and_a_third_of_what_is_imitated_is_right() -> None:
    rows = task.rows()
    assert rows == task.rows() and len(rows) == 36 * 35
    assert len({row["letters"] for row in rows}) == len(rows)
    right = sum(row["said_0"] == row["answer"] for row in rows) / len(rows)
    assert right == pytest.approx(0.35, abs=0.04)


def _items(*values: float) -> dict[str, float]:
    return {f"item {number}": value for number, value in enumerate(values)}


def test_a_gain_is_paired_by_item_and_its_interval_is_students() -> None:
    before = _items(0.0, 0.25, 0.5, 0.25)
    after = dict(reversed(_items(0.5, 0.5, 1.0, 0.75).items()))
    found = outcome(1, before, after, 3.0)
    assert (found.start, found.end, found.items) == (0.25, 0.6875, 4)
    assert found.gain == pytest.approx(0.4375)
    half = 3.182446305 * 0.125 / 2  # t of 3 degrees, deviation of 0.5 0.25 0.5 0.5, root of 4
    assert (found.low, found.high) == pytest.approx((0.4375 - half, 0.4375 + half))
    with pytest.raises(ValueError, match="same items"):
        outcome(1, before, _items(1.0), 3.0)


def test_only_intervals_above_zero_with_every_seed_count_as_learning() -> None:
    up = outcome(1, _items(*[0.0] * 9), _items(*[1.0] * 9), 1.0)
    even = outcome(2, _items(*[0.5] * 8), _items(*[0.25, 0.75] * 4), 1.0)
    down = outcome(3, _items(*[1.0] * 9), _items(*[0.0] * 9), 1.0)
    assert verdict([up, up, up]) == "learns"
    assert verdict([up, even, up]) == "not shown (2 of 3)"
    assert verdict([up, up, down]) == "falls"
    assert verdict([]) == "not shown (0 of 0)"


def test_a_bound_is_told_from_what_updates_and_further_steps_left() -> None:
    natural = [{"constraint": -0.004, "step_share": 1.0}, {"constraint": -0.01, "step_share": 0.0}]
    assert bound(0.01, natural) == Bound(0.01, 2, None, 0.01 - 0.004, 1, 0)
    mended = [
        {"loss": 1.0},
        {"constraint_before": 0.3, "constraint": -0.02, "fixups": 4},
        {"constraint_before": -0.1, "constraint": -0.1, "fixups": 0},
    ]
    found = bound(0.2, mended)
    assert found == Bound(0.2, 2, 0.2 + 0.3, 0.2 - 0.02, 0, 4)
    assert found.kept and not bound(0.2, [{"constraint": 0.001}]).kept
    with pytest.raises(ValueError, match="no update"):
        bound(0.2, [{"loss": 1.0}])


def test_the_page_holds_the_table_the_bounds_and_what_is_not_in_them() -> None:
    up = outcome(1, _items(*[0.25] * 9), _items(*[1.0] * 9), 7.4)
    even = outcome(2, _items(*[0.5] * 8), _items(*[0.25, 0.75] * 4), 1.0)
    rows = [
        Row("gtpo_apart", [up, even, up]),
        Row("grpo", [up, up, up]),
        Row("trpo", [up, up, up], bound(0.01, [{"constraint": -0.002, "step_share": 1.0}])),
        Row("aspo", [], absent="`aspo` uses `code_position`"),
    ]
    text = page(rows, Machine("2026-01-02", 2, "1", "3.11.1", {"torch": "2.0"}))
    gains = " | ".join(["+75.0 (75.0 to 75.0)"] * 3)
    assert f"| `grpo` | 25.0% | 100.0% | {gains} | learns | 7 | `lr = 2e-3`, `warmup = 10%`" in text
    assert "| `trpo` | 0.01 | 1 |  | 0.008 | 0 | 0 | yes |" in text
    assert "- `aspo`: `aspo` uses `code_position`" in text
    assert "- `gtpo_apart`, not shown (2 of 3): advantages" in text
    assert "3 rows" in text and recipes.pipeline("grpo") in text
    assert "$" not in text


def test_the_settings_column_tells_what_is_not_usual() -> None:
    assert settings("reinforce") == "`lr = 2e-3`, `warmup = 10%`"
    assert settings("trpo") == "`cg_iterations = 4`; no learning rate; few iterations to save time"
    assert "`greedy = true`" in settings("remax")
    assert settings("gtpo_apart").startswith('`gtpo(sets = "apart")`, `lr')
    assert settings("rebel") == "`lr = 2e-3`, `warmup = 10%`, pairs of the best and the worst"


@pytest.mark.slow
def test_one_algorithm_is_taught_and_told_of_and_a_second_time_nothing_runs(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from learn import recipes, run; recipes.SEEDS = (1, 2); recipes.ROUNDS = 2\n"
        "raise SystemExit(run.main(sys.argv[1:]))"
    )
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    made = tmp_path / "page.md"
    command = [sys.executable, "-c", code, "trpo", "aspo", "--folder", str(tmp_path / "runs")]
    env = {**os.environ, "PYTHONPATH": paths, "GRAPE_HOME": str(tmp_path / "home")}
    env.pop("PREFECT_HOME", None)
    try:
        said = [
            subprocess.run(
                [*command, "--page", str(made)], env=env, capture_output=True, text=True, check=True
            ).stdout
            for _ in range(2)
        ]
    finally:
        subprocess.run([sys.executable, "-m", "grape", "server", "stop"], env=env, check=True)
    assert said[0] == said[1] and said[0].startswith("trpo  ")
    assert "| `trpo` | 0.01 | 4 |" in made.read_text(encoding="utf-8")
