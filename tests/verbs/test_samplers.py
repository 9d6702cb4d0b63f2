"""What samplers bring to formulas, on models from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from verbs.running import Running

from grape.compiler.plan import PlannedStage
from grape.runtime import contracts
from grape.runtime.artifacts import Item
from grape.runtime.context import Context
from grape.runtime.errors import StageError
from grape.runtime.verbs import sample


def test_a_greedy_companion_is_judged_and_never_learned_from(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "remax",
        """  stage tries = sample(base, sums) {
    prompts = 3
    group = 2
    max_tokens = 5
    greedy = true
  }
  stage scored = score(tries, within(9))
  stage policy = train(base, scored) { algorithm = remax(), lr = 1e-3 }
""",
    )
    run.go()
    scored = run.rollouts("scored")
    assert [row.group for row in scored.rows] == [0, 0, 1, 1, 2, 2]
    baseline = {row.group: row.reward for row in scored.companions}
    assert sorted(baseline) == [0, 1, 2]
    assert [row.added for row in scored.rows] == [
        {"greedy_reward": baseline[row.group]} for row in scored.rows
    ]
    assert all(len(row.ids) <= 5 for row in scored.companions)
    assert run.metrics("policy")[0]["reward_mean"] == pytest.approx(
        sum(row.reward or 0 for row in scored.rows) / 6
    )


ROUNDS = """  repeat 3 with policy = base {
    stage tries = sample(policy, sums) { prompts = 3, group = 2, max_tokens = 6 }
    stage scored = score(tries, within(3, min = 1))
    stage kept = keep(scored) { where = std(reward per group) > 0, prompts = 3, max_tries = 50 }
    next policy = train(policy, kept) { algorithm = dapo(), lr = 1e-3, checkpoint = 1ms }
  }
"""


class Cut(Exception):
    pass


def test_keep_samples_until_it_is_full(tmp_path: Path) -> None:
    """Each round trains on three prompts, and one that was cut off goes on with the same bytes."""
    whole = Running(tmp_path / "whole", "dapo", ROUNDS)
    whole.go()
    assert [told["update"] for told in whole.metrics("next")] == [0] * 3
    tries = [told["tries"] for told in whole.metrics("kept")]
    assert max(tries) > 1, "nothing was sampled again, nothing is shown"
    assert len(whole.metrics("scored")) == 3, "a further try is no metric of its own"

    parted = Running(tmp_path / "parted", "dapo", ROUNDS)

    def cut(event: dict[str, Any]) -> None:
        if event.get("unit") == "rounds" and event["done"] == 2:
            raise Cut

    parted.emit = cut
    with pytest.raises(Cut):
        parted.go()
    parted.emit = parted.events.append
    parted.go()
    assert [told["round"] for told in parted.metrics("kept")] in ([1, 2], [2])
    assert parted.weights() == whole.weights()


def test_further_tries_draw_other_prompts() -> None:
    items = [Item(str(n), prompt=str(n)) for n in range(10)]
    stage = PlannedStage(name="s", verb="sample", type="", inputs={}, settings={})
    states: dict[str, Any] = {}
    seen = []
    for round, attempt in ((0, 0), (0, 1), (0, 2), (1, 0)):
        context = Context(
            stage, Path(), Path(), print, round=round, state=states, attempt=attempt
        )  # fmt: skip
        seen += sample.drawn(items, 2, 7, sample.start_of(context, 2))
    assert len({item.id for item in seen}) == 8
    assert seen == sample.drawn(items, 8, 7, 0)


@pytest.mark.parametrize("algorithm", ["tree_rl", "tree_grpo"])
def test_trees_train(tmp_path: Path, algorithm: str) -> None:
    run = Running(
        tmp_path,
        algorithm,
        f"""  stage tries = sample(base, sums) {{
    prompts = 4
    max_tokens = 8
    sampler = tree(roots = 2, expand = 2, rounds = 2, branch = "entropy")
  }}
  stage scored = score(tries, within(7, unit = "characters"))
  stage varied = keep(scored) {{ where = std(reward per tree) > 0 }}
  stage policy = train(base, varied) {{ algorithm = {algorithm}(), lr = 1e-3 }}
""",
    )
    run.go()
    scored = run.rollouts("scored")
    assert len(scored.rows) == 4 * 10 == 4 * run.plan.stage("tries").settings["group"]
    varied = {
        (row.group, row.added["tree"])
        for row in scored.rows
        for other in scored.rows
        if (row.group, row.added["tree"]) == (other.group, other.added["tree"])
        and row.reward != other.reward
    }
    kept = [row for row in scored.rows if (row.group, row.added["tree"]) in varied]
    assert len(kept) > 0 and run.rollouts("varied").rows == kept
    assert run.metrics("policy")[0]["grad_norm"] > 0


REPLAY = """  repeat 4 with policy = base {
    stage tries = sample(policy, sums) { prompts = 2, group = 4, max_tokens = 6 }
    stage scored = score(tries, within(6, unit = "characters"))
    stage kept = keep(scored) { where = reward >= 0, replay = 2 }
    next policy = train(policy, kept) { algorithm = corrected(), lr = 1e-2, checkpoint = 1ms }
  }
"""


def test_earlier_rounds_come_back_with_the_log_probs_they_were_drawn_with(tmp_path: Path) -> None:
    whole = Running(tmp_path / "whole", "grpo", REPLAY)
    whole.go()
    told = whole.metrics("kept")
    assert [update["replayed"] for update in told] == pytest.approx([0, 1 / 2, 2 / 3, 2 / 3])
    assert [update["staleness"] for update in told] == pytest.approx([0, 0.5, 1, 1])
    assert [update["staleness_max"] for update in told] == [0, 1, 2, 2]
    learned = whole.metrics("next")
    assert learned[0]["apart"] < 1e-4 < learned[1]["apart"], "old rows keep their own log-probs"
    assert all(update["same"] == 0 for update in learned), "old_logp is that of this phase"

    parted = Running(tmp_path / "parted", "grpo", REPLAY)

    def cut(event: dict[str, Any]) -> None:
        if event.get("unit") == "rounds" and event["done"] == 3:
            raise Cut

    parted.emit = cut
    with pytest.raises(Cut):
        parted.go()
    parted.emit = parted.events.append
    parted.go()
    assert parted.weights() == whole.weights()


def test_stale_rows_need_a_formula_that_corrects() -> None:
    stage = PlannedStage(
        name="next", verb="train", type="Model", inputs={}, settings={},
        formula={"needs": ["logp", "reward"]},
    )  # fmt: skip
    context = Context(stage, Path(), Path(), print, round=2, rounds=3)
    contracts.check_stale(context, ["", "7"], 7)
    with pytest.raises(StageError, match=r"G971: 2 of 3 .* update 5 of 7"):
        contracts.check_stale(context, ["", "6", "5"], 7)
    corrected = stage.model_copy(update={"formula": {"needs": ["behavior_logp"]}})
    contracts.check_stale(replace(context, stage=corrected), ["6"], 7)


CURRICULUM = """  repeat 3 with policy = base {
    stage tries = sample(policy, sums) {
      prompts = 4
      group = 4
      max_tokens = 6
      curriculum = by_rate(between = [0.3, 0.7], explore = 0, least = 2)
    }
    stage scored = score(tries, within(6, unit = "characters"))
    next policy = train(policy, scored) { algorithm = grpo(), lr = 1e-3, checkpoint = 1ms }
  }
"""


def test_a_curriculum_by_rate_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    whole = Running(tmp_path / "whole", "grpo", CURRICULUM)
    whole.go()
    parted = Running(tmp_path / "parted", "grpo", CURRICULUM)
    learned = {update["reward_mean"] for update in whole.metrics("next")}
    assert len(learned) > 1

    def cut(event: dict[str, Any]) -> None:
        if event.get("unit") == "rounds" and event["done"] == 2:
            raise Cut

    parted.emit = cut
    with pytest.raises(Cut):
        parted.go()
    parted.emit = parted.events.append
    parted.go()
    assert parted.weights() == whole.weights()


def test_sets_of_a_vine_train(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "grpo",
        """  stage tries = sample(base, sums) {
    prompts = 4
    max_tokens = 8
    sampler = vine(states = 2, width = 6, set_size = 3)
  }
  stage scored = score(tries, within(7, unit = "characters"))
  stage policy = train(base, scored) { algorithm = sets(), lr = 1e-3 }
""",
    )
    run.go()
    scored = run.rollouts("scored")
    assert len({row.group for row in scored.rows}) == 8 and len(scored.rows) == 48
    told = run.metrics("policy")[0]
    assert told["grad_norm"] > 0 and told["widest"] > 0
