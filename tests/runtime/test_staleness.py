"""`staleness = 1`: a round learns from what the weights of the round before drew, exactly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from grape.compiler.plan import Plan, Ref
from grape.compiler.planning import make_plan
from grape.compiler.program import load
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.rollout import generate_for
from grape.runtime.errors import StageError
from grape.runtime.execute import execute, load_artifact
from grape.runtime.verbs.sample import drawn

torch.set_num_threads(1)

TEXT = """grape 1

{head}

pipeline p() {{
  data sums = jsonl("sums.jsonl") {{ prompt = "{{a}} + {{b}} =", answer = "{{sum}}" }}
  model base = fresh("llama", sums) {{ layers = 1, hidden = 16, heads = 2, context = 64 }}
  repeat {rounds} with policy = base {{
    {inside}
    stage tries = sample(policy, sums) {{ prompts = 2, group = 4, max_tokens = 6 }}
    stage scored = score(tries, contains("1") + within(5, unit = "characters"))
    next policy = train(policy, scored) {{ algorithm = {used}(), lr = 1e-2, {settings} }}
  }}
  output policy as "m"
}}
"""
OWN = {
    name: f"""algorithm {name}() on Rollouts {{
  let advantage = reward - mean(reward per group)
  let ratio = {ratio}
  maximize mean(mean(ratio * advantage per sequence) per batch)
}}"""
    for name, ratio in (
        ("old", "exp(logp - old_logp)"),
        ("drawn", "exp(logp - behavior_logp)"),
        ("apart", "exp(logp - old_logp) * exp(old_logp - behavior_logp)"),
        ("never", "exp(logp - old_logp) * exp(behavior_logp - behavior_logp)"),
    )
}
LORA = "checkpoint = 1ms, adapter = lora(rank = 2, alpha = 4)"


class _Cut(Exception):
    pass


class _Run:
    """A plan's stages in this process, with artifacts in folders."""

    def __init__(
        self,
        folder: Path,
        inside: str = "staleness = 1",
        *,
        rounds: int = 4,
        used: str = "grpo",
        settings: str = "checkpoint = 1ms",
    ) -> None:
        folder.mkdir()
        self.folder = folder
        rows = [{"a": a, "b": b, "sum": a + b} for a in range(3) for b in range(3)]
        (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = folder / "p.grape"
        head = OWN.get(used, f'use {used} from "std/algorithms"')
        how = {"inside": inside, "rounds": rounds, "settings": settings}
        file.write_text(TEXT.format(head=head, used=used, **how))
        program = load(file)
        assert program.ok, program.findings
        self.plan: Plan = make_plan(
            program.graph(),
            project=folder,
            file=str(file),
            state_of=lambda key: "run",
            previous=None,
        )
        self.events: list[dict[str, Any]] = []

    def open(self, ref: Ref) -> Any:
        return load_artifact(self.plan.stage(ref.stage).type, self.folder / "made" / ref.stage)

    def go(self, stop: Callable[[dict[str, Any]], bool] = lambda event: False) -> Path:
        def emit(event: dict[str, Any]) -> None:
            self.events.append({**event, "thread": threading.current_thread().name})
            if stop(event):
                raise _Cut

        for stage in self.plan.stages:
            made, work = self.folder / "made" / stage.name, self.folder / "work" / stage.name
            if made.is_dir():
                continue
            work.mkdir(parents=True, exist_ok=True)
            artifact = execute(stage, self.open, project=self.folder, work=work, emit=emit)
            made.mkdir(parents=True)
            artifact.save(made)
        return self.folder / "made" / "policy"

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        found = [e for e in self.events if e["event"] == "metrics" and e["stage"] == stage]
        return sorted(found, key=lambda event: int(event["round"]))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> tuple[_Run, Path]:
    run = _Run(tmp_path_factory.mktemp("stale") / "p")
    return run, run.go()


def _logps(model: Any, row: Completion) -> torch.Tensor:
    whole = torch.tensor([[*row.prompt_ids, *row.ids]])
    every = torch.log_softmax(model(input_ids=whole).logits[0].float(), -1)
    before = every[len(row.prompt_ids) - 1 : -1]
    return before.gather(1, torch.tensor(row.ids)[:, None])[:, 0]


def _loss(model: Any, rollouts: Rollouts) -> torch.Tensor:
    """GRPO, term by term, with the log-probs that sampling wrote down."""
    rewards = torch.tensor(
        [("1" in row.text) + float(len(row.text) <= 5) for row in rollouts.rows]
    ).view(-1, 4)
    spread = rewards.std(1, keepdim=True) + 1e-4
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / spread).flatten()
    gains = []
    for row, advantage in zip(rollouts.rows, advantages, strict=True):
        ratio = torch.exp(_logps(model, row) - torch.tensor(row.logps))
        gains.append(torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean())
    return -torch.stack(gains).mean()


def _by_hand(run: _Run, rounds: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The weights after some rounds, one thing after the other, and the largest ratio of each."""
    policy, data = run.open(Ref(stage="base")), run.open(Ref(stage="sums"))
    policy.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-2, weight_decay=0.0)

    def draw(number: int) -> Rollouts:
        items: list[Item] = drawn(data.items, 2, 0, 2 * number)
        return generate_for(policy, items, group=4, temperature=1.0, top_p=1.0, max_tokens=6,
                            stop=(), seed=0, round=number, emit=lambda event: None)  # fmt: skip

    batch, ratios = draw(0), []
    for number in range(rounds):
        following = draw(number + 1)  # by the weights that this round begins with
        gaps = [(_logps(policy.model, row) - torch.tensor(row.logps)).abs() for row in batch.rows]
        ratios.append(torch.cat(gaps).max().item())
        optimizer.zero_grad()
        _loss(policy.model, batch).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        batch = following
    return policy.model.state_dict(), ratios


def test_the_weights_are_those_of_the_rounds_by_hand(stale: tuple[_Run, Path]) -> None:
    run, made = stale
    expected, ratios = _by_hand(run, 4)
    found = Policy.load(made).model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=5e-4)
    moved = run.open(Ref(stage="base")).model.state_dict()["model.embed_tokens.weight"]
    assert (moved - expected["model.embed_tokens.weight"]).abs().max() > 1e-2
    assert all(event["grad_norm"] > 0 for event in run.metrics("next"))
    assert ratios[0] < 1e-5 and min(ratios[1:]) > 1e-3, "old weights drew nothing: nothing is shown"


def test_training_and_drawing_go_on_at_once_and_in_order(stale: tuple[_Run, Path]) -> None:
    run, _ = stale
    by_round = {stage: run.metrics(stage) for stage in ("scored", "next")}
    assert [event["round"] for event in by_round["scored"]] == [0, 1, 2, 3]
    assert [event["round"] for event in by_round["next"]] == [0, 1, 2, 3]
    threads = [event["thread"].startswith("train") for event in by_round["next"]]
    assert threads == [True, True, True, False], "after the last round nothing is drawn"
    assert not any(event["thread"].startswith("train") for event in by_round["scored"])


def test_it_is_another_model_than_without_and_the_same_twice(
    stale: tuple[_Run, Path], tmp_path: Path
) -> None:
    _, made = stale
    fresh = _Run(tmp_path / "off", "staleness = 0")
    plain = _Run(tmp_path / "plain", "")
    assert fresh.plan.stage("policy").key == plain.plan.stage("policy").key
    without = weights(fresh.go())
    assert without == weights(plain.go())
    assert without != weights(made)
    assert weights(_Run(tmp_path / "again").go()) == weights(made)


@pytest.mark.parametrize("settings", ["checkpoint = 1ms", LORA], ids=["weights", "adapter"])
@pytest.mark.parametrize("done", [1, 3])
def test_going_on_gives_the_same_bytes(tmp_path: Path, settings: str, done: int) -> None:
    whole = _Run(tmp_path / "whole", settings=settings)
    parted = _Run(tmp_path / "parted", settings=settings)

    def after(event: dict[str, Any]) -> bool:
        return event["event"] == "metrics" and (event["stage"], event["round"]) == ("next", done)

    with pytest.raises(_Cut):
        parted.go(after)
    assert (parted.folder / "work" / "policy" / "checkpoint" / "state.pt").is_file()
    cut_off = len(parted.events)
    assert weights(parted.go()) == weights(whole.go())
    rounds = {e["round"] for e in parted.events[cut_off:] if e["event"] == "metrics"}
    assert min(rounds) == done, "what was done before is not done again"


def test_an_old_value_is_that_before_the_update(tmp_path: Path) -> None:
    """PPO over two parts of each batch: the ratio is to the drawn log-probs in both."""
    run = _Run(tmp_path / "p", used="ppo", settings="sequences_per_update = 4, head_lr = 1e-2")
    again = _Run(tmp_path / "q", used="ppo", settings="sequences_per_update = 4, head_lr = 1e-2")
    assert weights(run.go()) == weights(again.go())
    assert len(run.metrics("next")) == 8


def test_a_formula_that_weighs_by_itself_knows_both(tmp_path: Path) -> None:
    """`old_logp` is that of the drawing weights, or where the formula reads those itself, that of
    the weights before the update."""
    found = {}
    for name in OWN:
        run = _Run(tmp_path / name, used=name, rounds=3)
        found[name] = Policy.load(run.go()).model.state_dict()["lm_head.weight"]
    torch.testing.assert_close(found["old"], found["drawn"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["apart"], found["drawn"], rtol=0, atol=1e-4)
    assert (found["never"] - found["drawn"]).abs().max() > 1e-3


def test_completions_of_any_other_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grape.runtime.core import rollout

    real = rollout.generate_for

    def older(policy: Policy, *args: Any, **how: Any) -> Rollouts:
        made = real(policy, *args, **how)
        made.weights = str(max(0, policy.updates - 1))
        return made

    monkeypatch.setattr(rollout, "generate_for", older)
    with pytest.raises(StageError, match=r"G902.*update 0, and the model is at update 2"):
        _Run(tmp_path / "p").go()


def test_the_plan_counts_the_second_copy(tmp_path: Path) -> None:
    from grape.compiler.estimates.devices import Device
    from grape.runtime.preparing import prepare

    device = Device("cpu", 24 << 30, "cpu")
    plans = []
    for name, inside in (("stale", "staleness = 1"), ("fresh", "")):
        run = _Run(tmp_path / name, inside)
        graph = load(run.folder / "p.grape").graph()
        plans.append(prepare(graph, run.folder / "p.grape", device).stage("policy"))
    lines = [{line["name"]: line for line in plan.estimate["memory_lines"]} for plan in plans]
    assert lines[0]["weights before"]["bytes"] == lines[0]["weights"]["bytes"]
    assert "weights before" not in lines[1]
    assert lines[0]["key-value cache"]["phase"] == "all the time"
    assert lines[1]["key-value cache"]["phase"] == "sampling"
    assert plans[0].family == "" and plans[1].family, "what is drawn ahead belongs to no model"
