"""Critique and revision: what is criticised, what comes out, and which log-probs it is learned
by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from core.pipes import Pipe, goes_on, run
from rubric.fakes import Fake, fails, says, serving

from grape.compiler.plan import Ref
from grape.runtime.artifacts import Completion, read_lines
from grape.runtime.core.examples import of_rollouts
from grape.runtime.core.step import Cutting, logprobs
from grape.runtime.critics.critique import read_critique
from grape.runtime.critics.questions import find_fault
from grape.runtime.errors import StageError
from grape.runtime.revising import Fault, faults_of

RUBRIC = """
rubric tutor(critic: Model) {
  category all {
    item lively weight 2 = contains("a")
    item kind weight 1 = ask(critic, "Is the tone kind?")
  }
}
"""
WIDE = """
  model wide = fresh("llama") {
    layers = 1, hidden = 16, heads = 2, context = 1024, tokenizer = "bytes"
  }
"""
START = f"""{WIDE}
  stage tries = sample(wide, sums) {{ prompts = 3, group = 4, max_tokens = 4 }}
  stage scored = score(tries, tutor(critic = wide)) {{ combine = confidence(normalize = "none") }}
"""
SHORT = 'critique_tokens = 4, template = "{prompt}{critique} {prompt}"'


def revising(folder: Path, settings: str = "tries = 1", after: str = "") -> Pipe:
    body = f"{START}  stage better = revise(wide, scored, tutor(critic = wide)) {{\n"
    body += f"    below = 0.9, {SHORT}\n    {settings}\n  }}\n{after}"
    return run(folder, body, "sft, dpo, grpo", extra=RUBRIC)


def opened(pipe: Pipe, name: str) -> Any:
    return pipe.open(Ref(stage=name))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Pipe:
    return revising(tmp_path_factory.mktemp("group"), 'gives = "group", tries = 2')


# --- what is criticised -----------------------------------------------------------------------

ASKED = {"critic": "critic", "question": "Kind?", "scale": None}
ITEMS = [
    {"name": "right", "weight": 1.0, "value": {}},
    {"name": "kind", "weight": 1.0, "ask": ASKED},
    {"name": "idle", "weight": 0.0, "value": {}},
]
CATEGORIES = {"categories": [{"name": "all", "items": ITEMS}]}


def judged(right: float, kind: float | None = None) -> Completion:
    parts = {"right": right, "idle": 0.0} | ({} if kind is None else {"kind": kind})
    return Completion("a", 0, "1 + 1 =", [], "3", [], [], False, parts=parts, category="all")


def named(faults: list[Fault]) -> list[tuple[int, str, str | None]]:
    return [(fault.row, fault.item["name"], fault.critic) for fault in faults]


def test_every_item_below_the_bound_is_a_fault_and_no_other() -> None:
    rows = [judged(1, 0.5), judged(0, 0.49), judged(0.5)]
    how = {"below": 0.5, "verified": "critic"}
    assert named(faults_of(CATEGORIES, rows, how)) == [
        (1, "right", "critic"),
        (1, "kind", "critic"),
    ]


@pytest.mark.parametrize(("verified", "critic"), [("critic", "critic"), ("plain", None)])
def test_who_criticises_a_verified_item_is_a_choice(verified: str, critic: str | None) -> None:
    how = {"below": 0.5, "verified": verified}
    assert named(faults_of(CATEGORIES, [judged(0, 1)], how)) == [(0, "right", critic)]


def test_a_verified_item_may_go_without_a_critique() -> None:
    assert faults_of(CATEGORIES, [judged(0, 1)], {"below": 0.5, "verified": "none"}) == []


def test_a_critic_is_told_the_task_the_answer_the_question_and_the_score() -> None:
    text = find_fault(ITEMS[1], judged(0, 0.25))
    for part in ("1 + 1 =", "3", "Question: Kind?", "0.25 of 1", "how to mend it"):
        assert part in text
    assert 'the check "right": 0.00 of 1' in find_fault(ITEMS[0], judged(0, 0.25))


@pytest.mark.parametrize(
    ("text", "critique"),
    [
        ('{"critique": "Too\\nshort."}', "Too short."),
        ('Here: {"critique": "Cold."}', "Cold."),
        ("It is cold.", "It is cold."),
        ('{"critique": "cut', ""),
        ('{"critique": 3}', ""),
        ("", ""),
    ],
)
def test_a_critique_is_read_from_json_or_plain_words(text: str, critique: str) -> None:
    assert read_critique(text) == critique


# --- what comes out ---------------------------------------------------------------------------


def test_revisions_stand_in_the_groups_of_what_they_revise(group: Pipe) -> None:
    before, after = opened(group, "scored").rows, opened(group, "better").rows
    first, later = after[: len(before)], after[len(before) :]
    assert [row.ids for row in first] == [row.ids for row in before]
    assert all(row.added["revised"] == 0 and not row.critique for row in first)
    assert later and len(later) % 2 == 0
    origins = {(row.group, row.text): row for row in before}
    for row in later:
        origin = origins[row.group, row.revises]
        assert row.added["revised"] == 1 and row.critique.startswith("- ")
        assert (row.prompt, row.prompt_ids) == (origin.prompt, origin.prompt_ids)
        assert row.parts.keys() == {"lively", "kind"} and row.category == "all"


def test_weights_are_averaged_over_rollouts_and_revisions(group: Pipe) -> None:
    rows = opened(group, "better").rows
    for number in {row.group for row in rows}:
        members = [row for row in rows if row.group == number]
        sure = sum(row.confidences["kind"] for row in members) / len(members)
        for row in members:
            wanted = 2 * row.parts["lively"] + sure * row.parts["kind"]
            assert row.reward == pytest.approx(wanted)


def test_training_reads_log_probs_without_the_critique_and_knows_those_with_it(
    group: Pipe,
) -> None:
    """`logp` and `old_logp` are after the prompt alone, `behavior_logp` is as it was drawn."""
    base, rollouts = opened(group, "wide"), opened(group, "better")
    rows = [row for row in rollouts.rows if row.added["revised"]]
    examples = of_rollouts(rollouts, ["reward"])[-len(rows) :]
    plain = torch.split(logprobs(base, examples, Cutting()), [len(row.ids) for row in rows])
    for row, example, ours in zip(rows, examples, plain, strict=True):
        shown = f"{row.prompt}{row.critique} {row.prompt}"
        drawn_after = base.tokenizer(shown)["input_ids"]
        assert ours.tolist() == pytest.approx(reference(base, row.prompt_ids, row.ids), abs=1e-4)
        drawn = reference(base, drawn_after, row.ids)
        assert example.tokens["behavior_logp"] == pytest.approx(drawn, abs=1e-4)
        assert drawn != pytest.approx(ours.tolist(), abs=1e-3)
        assert example.scalars["revised"] == 1


@torch.no_grad()
def reference(policy: Any, prompt: list[int], ids: list[int]) -> list[float]:
    logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    found = torch.log_softmax(logits.float(), -1)[torch.arange(len(ids)), torch.tensor(ids)]
    return list(found.tolist())


CAREFUL = """
algorithm careful() on Rollouts {
  let advantage = reward - mean(reward per group)
  let weight = detach(min(exp(logp - behavior_logp), 2))
  log revised = mean(revised per batch)
  log ratio = mean(exp(logp - old_logp) per batch)
  maximize mean(weight * advantage * logp per batch)
}
"""


def test_a_formula_may_weigh_revisions_by_how_they_were_drawn(tmp_path: Path) -> None:
    body = f"""{START}
  stage mixed = revise(wide, scored, tutor(critic = wide)) {{ gives = "group", {SHORT} }}
  stage tuned = train(wide, mixed) {{ algorithm = careful(), lr = 1e-3 }}
"""
    pipe = run(tmp_path, body, "sft", extra=RUBRIC + CAREFUL)
    (told,) = pipe.metrics("tuned")
    rows = opened(pipe, "mixed").rows
    assert told["revised"] == pytest.approx(sum(r.added["revised"] for r in rows) / len(rows))
    assert told["ratio"] == 1 and told["grad_norm"] > 0


def test_revisions_are_imitated(tmp_path: Path) -> None:
    after = "  stage demos = best(better)\n"
    after += "  stage tuned = train(wide, demos) { algorithm = sft(), lr = 1e-3 }\n"
    pipe = revising(tmp_path, after=after)
    revisions = {row.text for row in opened(pipe, "better").rows}
    demos = opened(pipe, "demos").rows
    assert demos and {demo.completion for demo in demos} <= revisions
    prompts = {row.prompt for row in opened(pipe, "scored").rows}
    assert {demo.prompt for demo in demos} <= prompts, "the critique is no part of the task"
    assert pipe.metrics("tuned")


def test_a_pair_prefers_a_revision_that_scores_more(tmp_path: Path) -> None:
    after = "  stage tuned = train(wide, better) { algorithm = dpo(), lr = 1e-3 }\n"
    pipe = revising(tmp_path, 'gives = "pairs", tries = 2', after)
    pairs = opened(pipe, "better").rows
    rejected = {row.text: row for row in opened(pipe, "scored").rows}
    assert pairs and all(pair.margin > 0 for pair in pairs)
    assert len({pair.rejected for pair in pairs}) == len({p.rejected for p in pairs} & {*rejected})
    assert pipe.metrics("tuned")


def test_only_better_revisions_are_kept_where_that_is_asked(tmp_path: Path, group: Pipe) -> None:
    pipe = revising(tmp_path, 'gives = "group", only_better = true, tries = 2')
    kept = [row for row in opened(pipe, "better").rows if row.added["revised"]]
    every = [row for row in opened(group, "better").rows if row.added["revised"]]
    assert 0 < len(kept) < len(every)
    rewards = {(row.group, row.text): row.reward for row in opened(pipe, "better").rows}
    assert all(row.reward > rewards[row.group, row.revises] for row in kept)


def test_the_same_seed_gives_the_same_revisions_and_another_gives_others(tmp_path: Path) -> None:
    made = [revising(tmp_path / str(n), f"seed = {n // 2}") for n in range(3)]
    texts = [[row.text for row in opened(pipe, "better").rows] for pipe in made]
    assert texts[0] == texts[1] != texts[2]


def test_where_nothing_is_low_there_is_nothing_to_revise(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no item scores below -1"):
        stage = "  stage better = revise(wide, scored, tutor(critic = wide)) { below = -1 }\n"
        run(tmp_path, START + stage, "sft", extra=RUBRIC)


ROUNDS = """
  model wide = fresh("llama") {
    layers = 1, hidden = 16, heads = 2, context = 1024, tokenizer = "bytes"
  }
  repeat 3 with policy = wide {
    stage tries = sample(policy, sums) { prompts = 3, group = 4, max_tokens = 4 }
    stage scored = score(tries, tutor(critic = wide)) { combine = confidence(scope = "running") }
    stage mixed = revise(policy, scored, tutor(critic = wide)) {
      gives = "group", critique_tokens = 4, template = "{prompt}{critique} {prompt}"
    }
    next policy = train(policy, mixed) { algorithm = careful(), lr = 1e-2, checkpoint = 1ms }
  }
"""


def test_rounds_of_revision_go_on_with_the_same_bytes(tmp_path: Path) -> None:
    whole = goes_on(tmp_path, ROUNDS, "sft", "next", 2, extra=RUBRIC + CAREFUL)
    assert len(whole.metrics("mixed")) == 3
    assert all(told["revisions"] > 0 for told in whole.metrics("mixed"))


# --- served critics ---------------------------------------------------------------------------


def answering(critique: str) -> Any:
    """A server that judges and criticises, each when it is asked to."""

    def manners(number: int, body: dict[str, Any]) -> Any:
        if body["response_format"]["json_schema"]["name"] == "critique":
            return says(critique) if critique else fails(400, "no")
        return says(json.dumps({"reasoning": "so", "score": "no", "confidence": 0.5}))

    return manners


def served(folder: Path, fake: Fake, settings: str = "") -> Pipe:
    body = f"""{WIDE}
  model judge = served("{fake.url}") {{ model = "big", retries = 0 }}
  stage tries = sample(wide, sums) {{ prompts = 2, group = 2, max_tokens = 4 }}
  stage scored = score(tries, tutor(critic = judge))
  stage better = revise(wide, scored, tutor(critic = judge)) {{ {settings} }}
"""
    return run(folder, body, "sft", extra=RUBRIC)


def test_a_served_critic_writes_a_critique_of_each_item_and_it_is_remembered(
    tmp_path: Path,
) -> None:
    with serving(answering('{"critique": "Be warmer."}')) as fake:
        rows = opened(served(tmp_path, fake), "better").rows
        assert {line for row in rows for line in row.critique.splitlines()} == {"- Be warmer."}
        asked = [body for body in fake.asked if "critique" in json.dumps(body["response_format"])]
        assert len(asked) >= len(rows)
        schema = asked[0]["response_format"]["json_schema"]["schema"]
        assert schema["required"] == ["critique"]
        before = len(fake.asked)
        (tmp_path / "made" / "better").rename(tmp_path / "old")
        served(tmp_path, fake)
        again = [b for b in fake.asked[before:] if "critique" in json.dumps(b["response_format"])]
        assert again == []


def test_a_failing_critic_stops_the_run_or_its_critique_is_left_out(tmp_path: Path) -> None:
    with serving(answering("")) as fake:
        with pytest.raises(StageError, match="no critique for the item") as stopped:
            served(tmp_path / "stops", fake)
        assert "completion:" in stopped.value.message
        with pytest.raises(StageError, match="no critique could be had"):
            served(tmp_path / "goes_on", fake, "on_error = 0")


def test_a_critique_that_cannot_be_read_is_left_out_with_a_note(tmp_path: Path) -> None:
    with serving(answering('{"critique": "cut')) as fake:
        settings = 'gives = "group"'
        pipe = served(tmp_path, fake, settings)
    notes = [event["text"] for event in pipe.events if event["event"] == "note"]
    assert any("critiques left out: none can be read" in note for note in notes)
    assert len(opened(pipe, "better").rows) == 4


def test_a_served_model_revises_in_text(tmp_path: Path) -> None:
    def manners(number: int, body: dict[str, Any]) -> Any:
        if "response_format" in body:
            return answering('{"critique": "Say a."}')(number, body)
        return says("a")

    with serving(manners) as fake:
        body = f"""{WIDE}
  model far = served("{fake.url}") {{ model = "big" }}
  stage tries = sample(wide, sums) {{ prompts = 2, group = 2, max_tokens = 4 }}
  stage scored = score(tries, tutor(critic = far))
  stage pairs = revise(far, scored, tutor(critic = far)) {{ gives = "pairs" }}
  stage tuned = train(wide, pairs) {{ algorithm = dpo(), lr = 1e-3 }}
"""
        pipe = run(tmp_path, body, "dpo", extra=RUBRIC)
    pairs = list(read_lines(tmp_path / "made" / "pairs" / "preferences.jsonl"))
    assert pairs and all(pair["chosen"] == "a" and not pair["chosen_ids"] for pair in pairs)
    assert pipe.metrics("tuned")
