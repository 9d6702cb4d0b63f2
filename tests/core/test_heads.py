"""Value and score heads: trained with the model, kept beside it, left out of what is published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from core.pipes import goes_on, run
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from grape.compiler.plan import Ref
from grape.runtime.artifacts import HEADS
from grape.runtime.core.judging import judged
from grape.runtime.core.publishing import with_score
from grape.runtime.errors import StageError
from grape.runtime.rewards.classifier import classifier

PPO = """
  repeat 3 with policy = base {
    stage tries = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 3 }
    stage scored = score(tries, lively())
    next policy = train(policy, scored) {
      algorithm = ppo(), lr = 1e-2, head_lr = 1e-1, epochs = 2, sequences_per_update = 8
      checkpoint = 1ms
    }
  }
"""
MORE = """
  stage later = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 3 }
  stage judged = score(later, lively())
  stage further = train(policy, judged) { algorithm = ppo(), lr = 1e-2 }
"""


@pytest.mark.parametrize("at", [5, 9])
def test_ppo_over_epochs_and_parts_of_a_batch_goes_on_with_the_same_bytes(
    tmp_path: Path, at: int
) -> None:
    whole = goes_on(tmp_path, PPO, "ppo", "next", at)
    told = whole.metrics("next")
    assert len(told) == 12
    first, later = told[0], told[1:4]
    assert first["clipped"] == 0
    assert any(update["clipped"] > 0 for update in later), "old_logp is of before the first update"
    head = whole.weights("policy")["heads/value"]
    assert head.shape == (1, 16) and head.norm() > 1e-2


def test_a_head_goes_on_in_the_next_stage(tmp_path: Path) -> None:
    pipe = run(tmp_path, PPO + MORE, "ppo")
    before, after = (pipe.weights(name)["heads/value"] for name in ("policy", "further"))
    assert not torch.equal(before, after)
    assert (after - before).norm() < before.norm() / 2, "it did not begin at zero again"


def test_a_saved_model_with_a_head_is_still_a_plain_one(tmp_path: Path) -> None:
    pipe = run(tmp_path, PPO, "ppo")
    folder = pipe.folder / "made" / "policy"
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert not any("value" in name for name, _ in plain.named_parameters())


def test_an_adapter_and_a_head_are_trained_together(tmp_path: Path) -> None:
    body = PPO.replace("head_lr", "adapter = lora(rank = 2), head_lr")
    whole = goes_on(tmp_path, body, "ppo", "next", 9)
    assert whole.weights("policy")["heads/value"].norm() > 1e-2


PAIRS = """
  stage tries = sample(base, sums) { prompts = 6, group = 4, max_tokens = 3 }
  stage scored = score(tries, lively())
  stage pairs = pair(scored)
  stage judge = train(base, pairs) {
    algorithm = reward_model(), lr = 1e-2, epochs = 6, sequences_per_update = 4, checkpoint = 1ms
  }
"""
JUDGED = """
  repeat 2 with policy = base {
    stage answers = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 3 }
    stage judged = score(answers, judge)
    next policy = train(policy, judged) { algorithm = grpo(), lr = 1e-2 }
  }
  stage report = evaluate(policy, sums, judge) { max_tokens = 3 }
"""


def test_a_reward_model_learns_its_pairs_and_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    told = goes_on(tmp_path, PAIRS, "reward_model", "judge", 5).metrics("judge")
    assert told[-1]["accuracy"] > told[0]["accuracy"]
    assert told[-1]["loss"] < told[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_a_reward_model_is_a_reward(tmp_path: Path) -> None:
    pipe = run(tmp_path, PAIRS + JUDGED, "reward_model, grpo")
    told = pipe.metrics("judged")
    assert len(told) == 2 and told[0]["reward"] != 0
    report = pipe.open(Ref(stage="report"))
    rewards = {value for score in report.scores for value in score.rewards}
    assert len(rewards) > 1


def test_a_score_is_what_the_head_says_at_the_last_token(tmp_path: Path) -> None:
    pipe = run(tmp_path, PAIRS, "reward_model")
    judge, tries = (pipe.open(Ref(stage=name)) for name in ("judge", "tries"))
    row = tries.rows[0]
    tokenizer = judge.tokenizer
    ids = [*tokenizer(row.prompt + row.text)["input_ids"], tokenizer.eos_token_id]
    made = judge.model(torch.tensor([ids]), output_hidden_states=True)
    wanted = judge.head("score")(made.hidden_states[-1][0, -1]).item()
    assert judged(judge, tries).rows[0].reward == pytest.approx(wanted, abs=1e-5)
    assert wanted != 0


def test_a_published_reward_model_is_a_classifier_with_the_same_scores(tmp_path: Path) -> None:
    pipe = run(tmp_path, PAIRS, "reward_model")
    judge, tries = (pipe.open(Ref(stage=name)) for name in ("judge", "tries"))
    stored, published = tmp_path / "made" / "judge", tmp_path / "published"
    shutil.copytree(stored, published, ignore=shutil.ignore_patterns(HEADS))
    assert with_score(stored, published)
    model = AutoModelForSequenceClassification.from_pretrained(published)
    assert type(model).__name__ == "LlamaForSequenceClassification"
    row, tokenizer = tries.rows[0], judge.tokenizer
    ids = [*tokenizer(row.prompt + row.text)["input_ids"], tokenizer.eos_token_id]
    found = model(torch.tensor([ids])).logits.item()
    assert found == pytest.approx(judged(judge, tries).rows[0].reward, abs=1e-5)


WITHIN = """
  repeat 2 with policy = base {
    stage answers = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 3 }
    stage judged = score(answers, lively() + 0.5 * classifier(judge, squash = true))
    next policy = train(policy, judged) { algorithm = grpo(), lr = 1e-2 }
  }
"""


def test_a_reward_model_is_a_part_of_a_reward(tmp_path: Path) -> None:
    pipe = run(tmp_path, PAIRS + WITHIN, "reward_model, grpo")
    (told, _) = pipe.metrics("judged")
    assert 0 < told["reward.classifier"] < 1
    assert told["reward"] == pytest.approx(told["reward.lively"] + told["reward.classifier"] / 2)


PUBLISHED = """
  stage tries = sample(base, sums) { prompts = 3, group = 4, max_tokens = 3 }
  model again = pretrained("published") { head = "score" }
  stage judged = score(tries, again)
"""


@pytest.mark.parametrize("by_transformers", [False, True])
def test_a_published_reward_model_is_loaded_with_its_head(
    tmp_path: Path, by_transformers: bool
) -> None:
    pipe = run(tmp_path, PAIRS, "reward_model")
    judge, tries = (pipe.open(Ref(stage=name)) for name in ("judge", "tries"))
    stored, published = tmp_path / "made" / "judge", tmp_path / "published"
    shutil.copytree(stored, published, ignore=shutil.ignore_patterns(HEADS))
    with_score(stored, published)
    if by_transformers:  # which keeps no weights for a model of language
        model = AutoModelForSequenceClassification.from_pretrained(published)
        model.save_pretrained(published)
    pipe = run(tmp_path, PUBLISHED, "reward_model")
    again = pipe.open(Ref(stage="again"))
    wanted = [row.reward for row in judged(judge, tries).rows]
    if not by_transformers:
        (published / "grape.json").touch()
        params = {"source": "published", "label": None, "reads": "both", "squash": False}
        scorer = classifier(params, tries, tmp_path)
        assert [scorer(row) for row in tries.rows] == pytest.approx(wanted, abs=1e-5)
    assert [row.reward for row in judged(again, tries).rows] == pytest.approx(wanted, abs=1e-5)
    assert len({row.reward for row in pipe.open(Ref(stage="judged")).rows}) > 1


def test_a_model_of_language_has_no_head_to_load(tmp_path: Path) -> None:
    run(tmp_path, PAIRS, "reward_model")
    shutil.copytree(tmp_path / "made" / "base", tmp_path / "published")
    with pytest.raises(StageError, match="gives no single score"):
        run(tmp_path, PUBLISHED, "reward_model")


def test_a_repeat_that_trains_a_reward_model_makes_a_judge(tmp_path: Path) -> None:
    body = PAIRS.replace("judge = train(base, pairs)", "first = train(base, pairs)")
    body += """
  repeat 2 with judge = base {
    next judge = train(judge, pairs) { algorithm = reward_model(), lr = 1e-2 }
  }
  stage judged = score(tries, judge)
"""
    pipe = run(tmp_path, body, "reward_model")
    assert len({row.reward for row in pipe.open(Ref(stage="judged")).rows}) > 1
