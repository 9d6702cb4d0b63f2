"""Samplers that go on from rollouts, clusters and spans: pipelines that train, end to end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from verbs.running import Running

from grape.runtime.artifacts import Completion

FIRST = """  stage tries = sample(base, sums) { prompts = 3, group = 3, max_tokens = 5 }
  stage scored = score(tries, regex("[0-9a-m]"))
"""


def moved(run: Running) -> bool:
    """Whether training changed the weights and its loss is a number."""
    base = (run.folder / "made" / "base" / "model.safetensors").read_bytes()
    return run.weights() != base and math.isfinite(run.metrics("policy")[0]["loss"])


def groups(rows: list[Completion]) -> dict[int, list[Completion]]:
    found: dict[int, list[Completion]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def test_failed_completions_go_on_after_a_hint_and_train_with_the_mixture(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "rex_rag",
        FIRST
        + """  stage probes = sample(base, scored) {
    sampler = probe(hints = [" But", " Be", "Wait"], share = 1.0, success = 1)
    max_tokens = 14
  }
  stage again = score(probes, regex("[a-f]"))
  stage policy = train(base, again) { algorithm = rex_rag(), lr = 1e-3, ratio_tolerance = 1e-3 }
""",
    )
    run.go()
    scored, rows = run.rollouts("scored").rows, run.rollouts("probes").rows
    failed = [row for row in scored if row.reward == 0]
    plain = [row for row in rows if row.added["probe"] == 0]
    probes = [row for row in rows if row.added["probe"] == 1]
    assert len(failed) == len(probes) > 0
    assert [row.ids for row in plain] == [row.ids for row in scored]
    assert all(row.tokens["proposal_logp"] == row.logps for row in plain)
    assert all(row.reward is None for row in rows)
    assert [row.group for row in rows] == sorted(row.group for row in rows)
    rate = len(failed) / len(scored)
    for probe, start in zip(probes, failed, strict=True):
        assert probe.prompt_ids == start.prompt_ids and probe.group == start.group
        kept = len(start.ids) - (not start.truncated)
        assert probe.ids[:kept] == start.ids[:kept] and len(probe.ids) > kept
        proposal = probe.tokens["proposal_logp"]
        for place in range(kept):
            wanted = start.logps[place] - math.log(rate) / kept
            assert proposal[place] == pytest.approx(wanted)
        hint = next(
            h for h in (" But", " Be", "Wait") if probe.text[len(start.text) :].startswith(h)
        )
        inside = proposal[kept : kept + len(hint)]  # this tokenizer has a token per byte
        chances: dict[str, list[float]] = {
            " But": [1, 1, 1 / 2, 1],
            " Be": [1, 1, 1 / 2],
            "Wait": [1, 1, 1, 1],
        }
        assert inside == pytest.approx([math.log(chance) for chance in chances[hint]])
        assert proposal[kept + len(hint) :] == probe.logps[kept + len(hint) :]
    assert moved(run)


def test_nodes_of_trees_are_gone_on_from_and_their_values_set_off(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "tree_opo",
        """  stage forest = sample(base, sums) {
    prompts = 3
    sampler = tree(roots = 2, expand = 2)
    max_tokens = 6
  }
  stage leaves = score(forest, regex("[0-9a-m]"))
  stage staged = sample(base, leaves) {
    prompts = 2
    sampler = prefixes(count = 4, width = 2, value = "max")
    max_tokens = 8
  }
  stage scored = score(staged, regex("[a-z]"))
  stage policy = train(base, scored) { algorithm = tree_opo(), lr = 1e-3 }
""",
    )
    run.go()
    leaves, rows = run.rollouts("leaves").rows, run.rollouts("scored").rows
    assert {number: len(members) for number, members in groups(rows).items()} == {0: 8, 1: 8}
    for row in rows:
        own = [leaf for leaf in leaves if leaf.item == row.item]
        at = len(row.prompt_ids) - len(own[0].prompt_ids)
        node = row.prompt_ids[len(own[0].prompt_ids) :]
        below = [leaf for leaf in own if leaf.ids[:at] == node]
        assert below, "a prefix is the beginning of a leaf"
        assert row.added["prefix_value"] in {leaf.reward for leaf in below}
        assert at + len(row.ids) <= 8 and len(row.ids) == len(row.logps)
    assert len({tuple(row.prompt_ids) for row in groups(rows)[0]}) == 4
    assert moved(run)


def test_calls_of_a_program_are_grouped_by_module_and_share_its_reward(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "mm_grpo",
        """  stage tries = sample(base, sums) { prompts = 3, group = 4, max_tokens = 5 }
  stage second = sample(base, tries) {
    sampler = module(prompt = "{prompt}{completion} so")
    max_tokens = 4
  }
  stage third = sample(base, second) {
    sampler = module(prompt = "{a}:{completion}")
    max_tokens = 4
  }
  stage scored = score(third, regex("[0-9a-m]"))
  stage policy = train(base, scored) { algorithm = mm_grpo(), lr = 1e-3 }
""",
    )
    run.go()
    tries, rows = run.rollouts("tries").rows, run.rollouts("scored").rows
    assert {key: len(members) for key, members in groups(rows).items()} == dict.fromkeys(
        range(9), 4
    )
    for members in groups(rows).values():
        assert len({(row.added["module"], row.item) for row in members}) == 1
    calls = [[row for row in rows if row.added["program"] == one] for one in range(12)]
    for first, second, third in calls:
        assert first.ids == tries[int(first.added["program"])].ids
        assert second.prompt == f"{first.prompt}{first.text} so"
        assert third.prompt == f"{third.columns['a']}:{second.text}"
        assert first.reward == second.reward == third.reward
        assert third.reward == float(any(c in "0123456789abcdefghijklm" for c in third.text))
    assert len({row.reward for row in rows}) == 2
    assert len({tuple(second.ids) for _, second, _ in calls}) > 6
    assert moved(run)


def test_clusters_of_answers_scale_the_advantage(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "seed_grpo",
        FIRST.replace('m]")', 'm]")) { cluster = "number" }')[:-2].rstrip()
        + """
  stage policy = train(base, scored) { algorithm = seed_grpo(alpha = 0.5), lr = 1e-3 }
""",
    )
    run.go()
    for members in groups(run.rollouts("scored").rows).values():
        assert members[0].added["cluster"] == 0
        assert {row.added["cluster"] for row in members} == set(
            range(len({row.added["cluster"] for row in members}))
        )
    assert run.metrics("policy")[0]["spread"] > 0
    assert moved(run)


@pytest.mark.parametrize(
    "algorithm", ['egpo(opening = "", closing = "e")', 'aspo(opening = "", closing = "e")']
)
def test_spans_of_the_text_are_found_in_training(tmp_path: Path, algorithm: str) -> None:
    run = Running(
        tmp_path,
        algorithm.partition("(")[0],
        FIRST + f"  stage policy = train(base, scored) {{ algorithm = {algorithm}, lr = 1e-3 }}\n",
    )
    run.go()
    assert moved(run)


def test_a_vine_trains_polychromic(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "polychromic",
        """  stage tries = sample(base, sums) {
    prompts = 3
    sampler = vine(states = 2, width = 4, set_size = 2)
    max_tokens = 6
  }
  stage scored = score(tries, regex("[0-9a-m]"))
  stage policy = train(base, scored) {
    algorithm = polychromic(window = 2)
    lr = 1e-3
    head_lr = 1e-2
    epochs = 2
    sequences_per_update = 8
  }
""",
    )
    run.go()
    told = run.metrics("policy")
    assert len(told) == 6 and all(0 < one["diversity"] <= 1 for one in told)
    assert moved(run)


def test_sacpo_holds_the_second_stage_to_the_first_and_merges_between(tmp_path: Path) -> None:
    run = Running(
        tmp_path,
        "dpo",
        """  stage tries = sample(base, sums) { prompts = 6, group = 4, max_tokens = 6 }
  stage by_help = score(tries, regex("[0-9a-m]"))
  stage by_harm = score(tries, regex("[n-z]"))
  stage helpful = pair(by_help) { margin = 0.5 }
  stage harmless = pair(by_harm) { margin = 0.5 }
  stage first = train(base, helpful) { algorithm = dpo(beta = 0.1), lr = 1e-3 }
  stage second = train(first, harmless, reference = first) {
    algorithm = dpo(beta = 0.1 / 2)
    lr = 1e-3
  }
  stage none = merge(first, second) { weights = [1, 0] }
  stage whole = merge(first, second) { weights = [0, 1] }
  stage policy = merge(first, second) { weights = [0.25, 0.75] }
""",
    )
    run.go()

    def weights(name: str) -> bytes:
        return (run.folder / "made" / name / "model.safetensors").read_bytes()

    assert weights("none") == weights("first") != weights("second") == weights("whole")
    assert weights("policy") not in (weights("first"), weights("second"))
    for stage in ("first", "second"):  # each begins at its reference: a loss of log 2
        assert run.metrics(stage)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
