"""Other engines: a stand-in with vLLM's interface, and servers that give tokens or only text."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from core import pipes
from core.test_rollouts import ITEMS, tiny
from rubric.fakes import Reply, says, served, serving

from grape.compiler.program import load
from grape.dsl.catalogue import entry
from grape.runtime.artifacts import Item, Rollouts
from grape.runtime.core.engines import drawn_by
from grape.runtime.core.examples import of_rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.step import Cutting, logprobs
from grape.runtime.core.vllm_engine import Vllm
from grape.runtime.critics.sampling import generate_served
from grape.runtime.errors import StageError
from grape.runtime.preparing import prepare


@dataclass
class Params:
    """`vllm.SamplingParams`, as far as it is used."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: list[str]
    stop_token_ids: list[int]
    include_stop_str_in_output: bool
    seed: int
    logprobs: int


@dataclass
class Logprob:
    logprob: float


@dataclass
class Output:
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str


@dataclass
class Request:
    outputs: list[Output]


@dataclass
class StandIn:
    """`vllm.LLM`: the model of a folder, run token by token. `drift` is added to log-probs."""

    drift: float = 0.0
    calls: list[str] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)
    asked: list[Params] = field(default_factory=list)

    def __call__(self, **made: Any) -> StandIn:
        self.made = made
        self._load(made["model"])
        return self

    def _load(self, folder: str) -> None:
        self.calls.append("load")
        assert not (Path(folder) / "heads.safetensors").exists()
        self.policy = Policy.load(Path(folder), dtype=self.made["dtype"])

    def collective_rpc(self, method: str, kwargs: dict[str, str]) -> None:
        assert method == "reload_weights"
        self._load(kwargs["weights_path"])

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset")

    @torch.no_grad()
    def generate(
        self, prompts: list[dict[str, list[int]]], params: list[Params], use_tqdm: bool
    ) -> list[Request]:
        self.calls.append("generate")
        self.asked = params
        rows = zip(prompts, params, strict=True)
        return [Request([self._one(one["prompt_token_ids"], how)]) for one, how in rows]

    def _one(self, prompt: list[int], how: Params) -> Output:
        make = torch.Generator().manual_seed(how.seed)
        ids: list[int] = []
        told: list[dict[int, Logprob]] = []
        while len(ids) < how.max_tokens:
            logits = self.policy.model(torch.tensor([prompt + ids])).logits[0, -1].double()
            table = torch.log_softmax(logits / (how.temperature or 1e-9), -1)
            ids.append(int(torch.multinomial(table.exp(), 1, generator=make)))
            told.append({ids[-1]: Logprob(float(table[ids[-1]]) + self.drift)})
            if ids[-1] in how.stop_token_ids:
                return Output(ids, told, "stop")
        return Output(ids, told, "length")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made, module = StandIn(), ModuleType("vllm")
    vars(module).update(LLM=made, SamplingParams=Params)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def drawn(engine: Vllm, policy: Policy, items: list[Item], **more: Any) -> Rollouts:
    how: dict[str, Any] = {
        "group": 3, "temperature": 0.8, "top_p": 1.0, "max_tokens": 6, "stop": [], "seed": 1,
        "round": 0, "rows": 64, "compact": True, "emit": lambda event: None,
    }  # fmt: skip
    return drawn_by(engine, policy, items, **{**how, **more})


def test_an_engine_gets_tokens_and_gives_tokens(vllm: StandIn, tmp_path: Path) -> None:
    policy = tiny("llama")
    policy.model.generation_config.eos_token_id = list(range(0, 250, 9))
    policy.head("value")
    made = drawn(Vllm(tmp_path / "engine", 0.25), policy, ITEMS)
    assert [row.group for row in made.rows] == [n for n in range(5) for _ in range(3)]
    assert (made.sampling["engine"], made.weights) == ("vllm", "0")
    assert vllm.made["logprobs_mode"] == "processed_logprobs"
    assert (vllm.made["gpu_memory_utilization"], vllm.made["max_model_len"]) == (0.25, 128)
    examples = of_rollouts(made, ())
    now = logprobs(policy, examples, Cutting(), temperature=0.8)
    recorded = torch.tensor([logp for row in made.rows for logp in row.logps], dtype=now.dtype)
    torch.testing.assert_close(now, recorded, rtol=0, atol=1e-9)
    ends = [row.ids[-1] in policy.eos_ids for row in made.rows]
    assert [not row.truncated for row in made.rows] == ends and len(set(ends)) == 2
    assert len({one.seed for one in vllm.asked}) == 15
    alone = drawn(Vllm(tmp_path / "other", 0.25), policy, ITEMS[1:2])
    assert [row.ids for row in alone.rows] == [row.ids for row in made.rows[3:6]]


def test_weights_are_pushed_when_they_changed(vllm: StandIn, tmp_path: Path) -> None:
    policy = tiny("llama")
    engine = Vllm(tmp_path / "engine", 0.3)
    first = drawn(engine, policy, ITEMS[:1])
    drawn(engine, policy, ITEMS[:1])
    assert vllm.calls == ["load", "generate", "generate"]
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(-1)
    policy.updates += 1
    later = drawn(engine, policy, ITEMS[:1])
    assert vllm.calls[3:] == ["load", "reset", "generate"]
    assert later.weights == "1" and later.rows[0].ids != first.rows[0].ids


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(StageError, match="needs the package `vllm`") as error:
        Vllm(tmp_path, 0.3)
    assert "grape-lang[vllm]" in (error.value.hint or "")


BODY = """
  repeat 3 with policy = base {
    stage tries = sample(policy, sums) { prompts = 4, group = 4, max_tokens = 4, engine = "vllm" }
    stage scored = score(tries, lively())
    next policy = train(policy, scored) { algorithm = grpo(), lr = 1e-3 }
  }
"""


def test_a_repeat_pushes_its_weights_every_round(vllm: StandIn, tmp_path: Path) -> None:
    pipe = pipes.run(tmp_path, BODY, "grpo")
    # its head is its embedding, which vLLM on a processor reads only when it starts
    assert vllm.calls == ["load", "generate"] * 3
    gaps = [event["engine_gap"] for event in pipe.metrics("next") if "engine_gap" in event]
    assert len(gaps) == 3 and max(gaps) < 1e-5
    assert not [event for event in pipe.events if event.get("code") == "G913"]


def test_an_engine_that_differs_is_told_once_or_stops(vllm: StandIn, tmp_path: Path) -> None:
    vllm.drift = -0.2
    pipe = pipes.run(tmp_path / "near", BODY, "grpo")
    told = [event["text"] for event in pipe.events if event.get("code") == "G913"]
    assert len(told) == 1 and "differ by 0.2 nats a token" in told[0]
    vllm.drift = -2.0
    with pytest.raises(StageError, match=r"G901.*it ran other weights"):
        pipes.run(tmp_path / "far", BODY, "grpo")


def test_the_engine_is_part_of_the_type_and_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sums.jsonl").write_text('{"a": 1, "b": 2, "sum": 3}\n')

    def made(more: str) -> tuple[str, str]:
        file = tmp_path / "one.grape"
        body = BODY.replace(', engine = "vllm"', more)
        file.write_text(pipes.HEAD.format(used="grpo", body=body))
        graph = load(file).graph()
        tries = next(s for s in graph.stages if s.name == "policy").body[0]
        plan = prepare(graph, file)
        return tries.type.engine, next(s for s in plan.stages if s.name == "policy").key

    own, other, smaller = (
        made(""),
        made(', engine = "vllm"'),
        made(', engine = "vllm", engine_memory = 20%'),
    )
    assert own[0] == "transformers" and other[0] == "vllm"
    assert own[1] != other[1] == smaller[1]


# --- servers ----------------------------------------------------------------------------------


def tokens(ids: list[int], **more: Any) -> Reply:
    logps = [-0.5] * len(ids)
    choice = {
        "text": "x\n", "token_ids": ids, "prompt_token_ids": [5, 6], "finish_reason": "stop",
        "logprobs": {"token_logprobs": logps}, **more,
    }  # fmt: skip
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def ask(url: Any, items: list[Item]) -> Rollouts:
    return generate_served(
        served(url, retries=0, tokens=True), items, group=2, temperature=1.0, top_p=1.0,
        max_tokens=5, stop=["\n"], seed=3, round=0, emit=lambda event: None,
    )  # fmt: skip


def test_a_server_gives_ids_and_log_probs() -> None:
    chat = {
        "message": {"content": "yo"}, "token_ids": [7], "finish_reason": "length",
        "logprobs": {"content": [{"logprob": -0.25}]},
    }  # fmt: skip
    body = json.dumps({"choices": [chat], "prompt_token_ids": [1]}).encode()
    items = [Item("a", prompt="Hi"), Item("b", messages=[{"role": "user", "content": "Yo"}])]
    with serving(lambda n, asked: tokens([8, 9]) if "prompt" in asked else (200, {}, body)) as fake:
        made = ask(fake, items)
    assert made.sampling["engine"] == "server"
    first, last = made.rows[0], made.rows[2]
    assert (first.prompt_ids, first.ids, first.logps, first.text) == (
        [5, 6],
        [8, 9],
        [-0.5] * 2,
        "x",
    )
    assert (last.prompt_ids, last.ids, last.logps, last.truncated) == ([1], [7], [-0.25], True)
    assert all(asked["return_token_ids"] for asked in fake.asked)


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (says("text alone"), "no token ids"),
        (tokens([8], token_ids=None), "no token ids"),
        (tokens([8], prompt_token_ids=None), "no token ids"),
        (tokens([8, 9], logprobs=None), "no log-prob for each token"),
        (tokens([8, 9], logprobs={"token_logprobs": [None, -1]}), "no log-prob for each token"),
        ((200, {}, b'{"choices": []}'), "an answer that cannot be read"),
    ],
)
def test_a_server_of_text_is_refused_and_never_tokenised(reply: Reply, what: str) -> None:
    with serving(lambda n, body: reply) as fake, pytest.raises(StageError, match=what) as error:
        ask(fake, [Item("a", prompt="Hi")])
    assert error.value.code == "G922"


CORRECTED = entry("G922").bad.split("\n\n")[1] + "\n\n"
SERVED = """
  model big = served("URL") { model = "big", tokens = true }
  stage tries = sample(big, sums) { prompts = 4, group = 4, max_tokens = 4 }
  stage scored = score(tries, lively())
  stage better = train(base, scored) { algorithm = corrected(), lr = 1e-3 }
"""


def test_what_a_server_samples_can_be_trained_on(tmp_path: Path) -> None:
    def reply(number: int, body: dict[str, Any]) -> Reply:
        return tokens([60 + number % 7, 61], text="aeb"[: number % 4])

    with serving(reply) as fake:
        body = SERVED.replace("URL", fake.url)
        pipe = pipes.run(tmp_path / "good", body, "sft", extra=CORRECTED)
        assert pipe.metrics("better")[0]["tokens"] == 32
    with serving(lambda number, body: tokens([60, 9999])) as fake:
        body = SERVED.replace("URL", fake.url)
        with pytest.raises(StageError, match=r"G923.*token id 9999, and the model has 258"):
            pipes.run(tmp_path / "foreign", body, "sft", extra=CORRECTED)
