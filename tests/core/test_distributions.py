"""Algorithms that read whole next-token distributions, from a file to trained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from core.pipes import goes_on

TEACHER = """
  stage teacher = train(base, sums) { algorithm = sft(), lr = 2e-2, epochs = 6 }
"""
GKD = (
    TEACHER
    + """
  stage student = train(base, sums, teacher = teacher) {
    algorithm = gkd(beta = 0.5), lr = 1e-2, epochs = 2, sequences_per_update = 16, checkpoint = 1ms
  }
"""
)
ONLINE = (
    TEACHER
    + """
  repeat 4 with policy = base {
    stage tries = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 3 }
    stage scored = score(tries, lively())
    next policy = train(policy, scored, teacher = teacher) {
      algorithm = on_policy_distillation(estimate = "full"), lr = 1e-2, checkpoint = 1ms
    }
  }
"""
)
ROVER = """
  repeat 3 with policy = base {
    stage tries = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 3 }
    stage scored = score(tries, lively())
    next policy = train(policy, scored) {
      algorithm = rover(), lr = 1e-2, epochs = 2, sequences_per_update = 8, checkpoint = 1ms
    }
  }
"""


def test_distillation_draws_the_student_to_the_teacher(tmp_path: Path) -> None:
    told = goes_on(tmp_path, GKD, "sft, gkd", "student", 3).metrics("student")
    assert told[-1]["loss"] < 0.8 * told[0]["loss"]


def test_on_policy_distillation_over_the_whole_vocabulary(tmp_path: Path) -> None:
    used = "sft, on_policy_distillation"
    told = goes_on(tmp_path, ONLINE, used, "next", 2).metrics("next")
    assert told[-1]["loss"] < told[0]["loss"]


@pytest.mark.parametrize("at", [2, 9])
def test_rover_over_epochs_goes_on_with_the_same_bytes(tmp_path: Path, at: int) -> None:
    told = goes_on(tmp_path, ROVER, "rover", "next", at).metrics("next")
    assert len(told) == 12 and all(update["loss"] > 0 for update in told)
