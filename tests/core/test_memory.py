"""What a formula remembers goes from update to update, from round to round, into checkpoints."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from core.pipes import goes_on, run

CONTROLLER = """
algorithm held(initial: float = 0.5) on Rollouts {
  let advantage = reward - mean(reward per group)
  let kl = mean(logp - ref_logp per batch)
  state beta = initial then beta * (1 + clamp(abs(kl) - 0.01, -0.1, 0.1))
  log beta = beta
  minimize beta * kl - mean(advantage * logp per batch)
}

"""
LOOP = """
  repeat 4 with policy = base {
    stage tries = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 3 }
    stage scored = score(tries, lively())
    next policy = train(policy, scored) {
      algorithm = held(initial = 0.7), lr = 1e-2, sequences_per_update = 8, checkpoint = 1ms
    }
  }
"""
RATED = """
  data rated = jsonl("rated.jsonl") { prompt = "{p}", completion = "{c}", desirable = "{good}" }
  stage tuned = train(base, rated) {
    algorithm = bco(), lr = 1e-2, sequences_per_update = 4, epochs = 2, checkpoint = 1ms
  }
"""


def rated(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [f'{{"p": "{n} is", "c": " {n % 3}", "good": {n % 2}}}' for n in range(8)]
    (folder / "rated.jsonl").write_text("\n".join(rows))
    return folder


def test_the_number_of_one_update_is_where_the_next_begins(tmp_path: Path) -> None:
    told = run(tmp_path, LOOP, "sft", extra=CONTROLLER).metrics("next")
    assert len(told) == 8 and told[-1]["round"] == 3
    assert told[0]["beta"] == pytest.approx(0.7)
    for before, after in pairwise(told):
        assert after["beta"] == pytest.approx(before["state.beta"], rel=1e-6)
    assert len({update["beta"] for update in told}) == len(told)


@pytest.mark.parametrize("at", [3, 6])
def test_a_repeat_goes_on_with_what_it_remembers(tmp_path: Path, at: int) -> None:
    goes_on(tmp_path, LOOP, "sft", "next", at, extra=CONTROLLER)


def test_a_stage_on_ratings_goes_on_with_what_it_remembers(tmp_path: Path) -> None:
    for name in ("whole", "parted"):
        rated(tmp_path / name)
    told = goes_on(tmp_path, RATED, "bco", "tuned", 3).metrics("tuned")
    assert [update["shift"] for update in told[1:]] == pytest.approx(
        [update["state.shift"] for update in told[:-1]]
    )
    assert told[0]["shift"] == 0 != told[-1]["shift"]


@pytest.mark.parametrize("point", ["batch", "mismatched"])
def test_kto_learns_which_completions_are_good(tmp_path: Path, point: str) -> None:
    for name in ("whole", "parted"):
        rated(tmp_path / name)
    body = RATED.replace("bco()", f'kto(point = "{point}")').replace("epochs = 2", "epochs = 4")
    told = goes_on(tmp_path, body, "kto", "tuned", 3).metrics("tuned")
    assert told[-1]["loss"] < told[0]["loss"] == pytest.approx(0.5)
    assert told[0]["anchor"] == pytest.approx(0, abs=1e-5)


def test_what_is_random_in_a_formula_is_the_same_again(tmp_path: Path) -> None:
    body = LOOP.replace("held(initial = 0.7)", "clip_cov(cov_low = -9, share = 0.5)")
    told = goes_on(tmp_path, body, "clip_cov", "next", 3).metrics("next")
    assert any(update["cut"] > 0 for update in told)
