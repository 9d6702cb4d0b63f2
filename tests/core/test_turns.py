"""Turns with tools: results are read and never learned from, whatever lies beside a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from core import pipes
from core.test_rollouts import tiny

import grape
from grape.runtime.artifacts import Completion, Demos, Item, Preferences, Report, Rollouts
from grape.runtime.core import turns
from grape.runtime.core.examples import of_rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.sampling import Stops
from grape.runtime.core.step import Cutting, gradient, logprobs, values_of
from grape.runtime.errors import StageError
from grape.runtime.formula import compile_formula
from grape.runtime.tools import CLOSE, Call, Toolbox, chat_calls, tagged_calls

torch.set_num_threads(1)

ITEMS = [Item(f"i{n}", prompt="some prompt"[: 3 + 2 * n]) for n in range(4)]
TOOLS = """
import time

def size(text: str) -> int:
    \"\"\"How long a text is.\"\"\"
    return len(text)

def add(a, b=1):
    return a + b

def broken():
    raise ValueError("no luck")

def slow():
    time.sleep(5)

def odd():
    return {1, 2}
"""
SAMPLER: dict[str, Any] = {
    "kind": "turns", "max": 4, "tools": [{"kind": "python", "source": "tools.py:size"}],
    "format": "tags", "turn_tokens": None, "max_result": 8, "timeout": 5.0, "on_error": "tell",
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(TOOLS)
    return tmp_path


@pytest.fixture(scope="module")
def policy() -> Policy:
    made = tiny("llama")
    made.model.generation_config.eos_token_id = list(range(0, 250, 40))
    return made


@pytest.fixture
def chatty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many letters end a call, so that a model of random weights makes some."""

    def stops(tokenizer: Any, texts: tuple[str, ...]) -> Stops:
        return Stops(tokenizer, tuple(CALLS) if texts == (CLOSE,) else texts)

    monkeypatch.setattr(turns, "Stops", stops)
    monkeypatch.setattr(turns, "tagged_calls", calls_of)


CALLS = "aeiouAEIOU0123456789"


def calls_of(text: str) -> list[Call]:
    return [Call("size", (text,))] if set(CALLS) & set(text) else []


def talked(policy: Policy, project: Path, items: list[Item] = ITEMS, **more: Any) -> Rollouts:
    how: dict[str, Any] = {
        "group": 6, "temperature": 1.0, "top_p": 1.0, "max_tokens": 60, "stop": [], "seed": 2,
        "round": 0, "rows": 16, "compact": True, "emit": lambda event: None,
    }  # fmt: skip
    shape = {name: more.pop(name) for name in list(more) if name in SAMPLER}
    return turns.conversed(policy, items, {**SAMPLER, **shape}, {**how, **more}, project)


def own(row: Completion) -> list[int]:
    read = {place for start, end in row.observed for place in range(start, end)}
    return [place for place in range(len(row.ids)) if place not in read]


@pytest.mark.usefixtures("chatty")
def test_results_stand_between_turns_and_have_no_log_probs(policy: Policy, project: Path) -> None:
    rows = talked(policy, project).rows
    assert sum(len(row.observed) for row in rows) > 10, "the test needs calls"
    tokenizer: Any = policy.tokenizer
    for row in rows:
        assert len(row.logps) == row.drawn == len(own(row)) <= len(row.ids) <= 60
        assert sum(size for _, size in row.path) == row.drawn
        for number, (start, end) in enumerate(row.observed):
            size = len(row.turns[number]["text"])
            assert row.turns[number]["result"] == str(size)
            assert tokenizer.decode(row.ids[start:end]) == f"<result>{size}</result>"
        last = row.turns[-1]["text"]
        assert row.text == ("" if calls_of(last) else tokenizer.decode(own_tail(row, policy)))
        assert row.columns["transcript"] == tokenizer.decode(row.ids, skip_special_tokens=True)
        assert len(row.turns) <= 4 and (row.truncated or row.ids[-1] in policy.eos_ids)


def own_tail(row: Completion, policy: Policy) -> list[int]:
    start = row.observed[-1][1] if row.observed else 0
    return [token for token in row.ids[start:] if token != policy.tokenizer.eos_token_id]


@pytest.mark.usefixtures("chatty")
def test_log_probs_are_those_of_the_whole_conversation(policy: Policy, project: Path) -> None:
    rows = talked(policy, project).rows
    assert any(row.observed for row in rows)
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.ids])
        with torch.no_grad():
            table = torch.log_softmax(policy.model(ids).logits[0], -1)
        places = [len(row.prompt_ids) + place for place in own(row)]
        wanted = [float(table[place - 1, ids[0, place]]) for place in places]
        assert row.logps == pytest.approx(wanted, abs=1e-9)
    examples = of_rollouts(Rollouts(rows, {}), ())
    now = logprobs(policy, examples, Cutting(budget=100))
    recorded = torch.tensor([logp for row in rows for logp in row.logps], dtype=now.dtype)
    torch.testing.assert_close(now, recorded, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("chatty")
def test_a_conversation_does_not_depend_on_those_beside_it(policy: Policy, project: Path) -> None:
    wanted = [(row.ids, row.turns) for row in talked(policy, project).rows]
    for how in ({"rows": 6}, {"rows": 7}, {"compact": False}):
        assert [(row.ids, row.turns) for row in talked(policy, project, **how).rows] == wanted
    alone = talked(policy, project, ITEMS[2:3]).rows
    assert [(row.ids, row.turns) for row in alone] == wanted[12:18]


@pytest.mark.usefixtures("chatty")
def test_limits_end_a_conversation_and_say_so(policy: Policy, project: Path) -> None:
    once = talked(policy, project, max=2).rows
    assert any(len(row.turns) == 2 and row.truncated and row.text == "" for row in once)
    assert all(len(row.observed) <= 1 for row in once)
    short = talked(policy, project, turn_tokens=3).rows
    assert all(size <= 3 for row in short for _, size in row.path)
    assert any(row.truncated and row.text for row in short)
    tight = talked(policy, project, max_tokens=20).rows
    assert all(len(row.ids) <= 20 for row in tight)
    last = [row for row in tight if row.truncated and calls_of(row.turns[-1]["text"])]
    assert last and all(row.ids[-1] == own_tail(row, policy)[-1] for row in last)


# --- training on them -------------------------------------------------------------------------


def split(row: Example) -> list[Example]:
    """The same tokens without a mask: each run of counted tokens after all that came before."""
    found, at = [], 0
    for start, end in [*row.observed, (len(row.completion), len(row.completion))]:
        if start > at:
            found.append(Example((*row.prompt, *row.completion[:at]), row.completion[at:start], 0))
        at = end
    return found


CUTS = [
    Cutting(10**6, share=False, packed=False, fused=False, skip=False),
    Cutting(1, share=True, packed=True),
    Cutting(40, share=True, packed=True),
    Cutting(40, share=False, packed=False),
    Cutting(10**6, share=True, packed=True),
]


def masked_batch() -> list[Example]:
    """Six completions after two prompts; some tokens inside are only read."""
    make = torch.Generator().manual_seed(4)
    spans = [(), ((1, 3),), ((2, 4), (5, 6)), ((0, 2),), ((1, 2),), ()]
    found = []
    for number, size in enumerate((4, 5, 8, 5, 3, 6)):
        ids = tuple(torch.randint(5, 250, (size,), generator=make).tolist())
        prompt = tuple(range(10 + number // 3, 15 + number // 3))
        scalars = {"reward": (1.0, 0.0, 0.5, 2.0, -1.0, 0.25)[number], "truncated": 0.0}
        example = Example(prompt, ids, number // 3, {}, scalars, spans[number])
        steps = [float(n) for n, part in enumerate(split(example)) for _ in part.completion]
        old = (-5.5 + torch.rand(len(steps), generator=make)).tolist()
        example.tokens.update(step=steps, behavior_logp=old, ref_logp=old)
        found.append(example)
    return found


def test_log_probs_of_counted_tokens_alone(policy: Policy) -> None:
    batch = masked_batch()
    wanted = logprobs(policy, [part for row in batch for part in split(row)], CUTS[0])
    for how in CUTS:
        found = logprobs(policy, batch, how)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    for row in batch:
        row.tokens.pop("ref_logp")
    scores = [values_of(policy, batch, how, ("score",))["score"] for how in CUTS]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo", "ppo", "reinforce"])
def test_a_step_is_the_formula_on_the_counted_tokens(policy: Policy, name: str) -> None:
    """However the batch is cut, the gradient is that of `evaluate` on padded tensors whose mask
    leaves the read tokens out."""
    algo = grape.algorithm(name)
    batch = masked_batch()
    size = max(len(row.completion) for row in batch)

    def padded(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([torch.nn.functional.pad(row, (0, size - len(row))) for row in rows])

    mask = torch.zeros(len(batch), size, dtype=torch.bool)
    for number, row in enumerate(batch):
        mask[number, row.places()] = True
    tokens: dict[str, torch.Tensor] = {}
    for quantity in ("behavior_logp", "ref_logp"):
        tokens[quantity] = torch.zeros(mask.shape, dtype=torch.float64)
        flat = [value for row in batch for value in row.tokens[quantity]]
        tokens[quantity][mask] = torch.tensor(flat, dtype=torch.float64)
    ids = [torch.tensor([row.prompt + row.completion]) for row in batch]
    made = [policy.model(one, output_hidden_states=True) for one in ids]
    logp, value = [], []
    for row, one, out in zip(batch, ids, made, strict=True):
        before = slice(len(row.prompt) - 1, -1)
        table = torch.log_softmax(out.logits[0, before], -1)
        logp.append(table.gather(1, one[0, len(row.prompt) :, None])[:, 0])
        value.append(out.hidden_states[-1][0][before] @ policy.head("value").weight[0])
    live = {"logp": padded(logp), "value": padded(value)}
    given = {"old_logp": live["logp"].detach() * 0.9, "old_value": live["value"].detach() - 0.1}
    whole = {
        **live, **given, **tokens, "mask": mask,
        "group": torch.tensor([row.group for row in batch]),
        "reward": torch.tensor([row.scalars["reward"] for row in batch], dtype=torch.float64),
        "truncated": torch.zeros(len(batch), dtype=torch.float64),
    }  # fmt: skip
    policy.model.zero_grad()
    loss = algo.evaluate({key: whole[key] for key in {*algo.needs, "mask", "group"} & {*whole}})
    loss.loss.backward()  # type: ignore[no-untyped-call]
    wanted = [weight.grad.clone() for weight in policy.model.parameters()]
    assert max(float(grad.abs().max()) for grad in wanted) > 1e-6
    flat_given = {key: value[mask] for key, value in given.items() if key in algo.needs}
    for how in CUTS:
        policy.model.zero_grad()
        compiled = compile_formula(algo.formula)
        step = gradient(policy, compiled, batch, given=flat_given, how=how)
        assert step.loss == pytest.approx(loss.loss.item(), abs=1e-9)
        found = [weight.grad for weight in policy.model.parameters()]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


PIPE = """
  repeat 2 with policy = base {
    stage tries = sample(policy, sums) {
      prompts = 4, group = 6, max_tokens = 40
      sampler = turns(tools = [python("tools.py:size")], max_result = 8), greedy = true
    }
    stage scored = score(tries, lively() + python("tools.py:written"))
    stage long = keep(scored) { where = count(step_index per sequence) > 0 and length > 1 }
    next policy = train(policy, long) { algorithm = grpo(), lr = 1e-3, ratio_tolerance = 1e-4 }
  }
  stage more = score(again, lively())
  stage again = sample(policy, sums) {
    prompts = 6, max_tokens = 40, sampler = turns(tools = [python("tools.py:size")], max_result = 8)
  }
  stage better = train(policy, pairs) { algorithm = dpo(), lr = 1e-3 }
  stage pairs = pair(more) { by = "all" }
  stage imitated = train(better, good) { algorithm = sft(), lr = 1e-3 }
  stage good = best(more)
  stage after = evaluate(imitated, sums, lively()) {
    prompts = 8, temperature = 1, max_tokens = 40
    sampler = turns(tools = [python("tools.py:size")], max_result = 8)
  }
"""
WRITTEN = """
def written(completion, transcript):
    return float("<result>" in transcript)
"""


@pytest.mark.usefixtures("chatty")
def test_a_pipeline_learns_pairs_and_imitates_without_the_results(project: Path) -> None:
    (project / "tools.py").write_text(TOOLS + WRITTEN)
    pipe = pipes.run(project, PIPE, "grpo, dpo, sft")
    assert any(event["reward.python"] > 0 for event in pipe.metrics("scored"))
    rows = Rollouts.load(project / "made" / "more").rows
    assert any(row.observed for row in rows)
    good = Demos.load(project / "made" / "good").rows
    assert any(row.observed for row in good)
    told = sum(len(row.completion_ids or ()) for row in good)
    told -= sum(end - start for row in good for start, end in row.observed)
    assert sum(event["tokens"] for event in pipe.metrics("imitated")) == told
    pairs = Preferences.load(project / "made" / "pairs").rows
    assert any(row.chosen_observed or row.rejected_observed for row in pairs)
    scores = Report.load(project / "made" / "after").scores
    assert any(turn["result"] for score in scores for turns_ in score.turns for turn in turns_)


# --- calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "args", "named"),
    [
        ("I add <tool>add(2, 3)</tool>", "add", (2, 3), {}),
        ("<tool> add(a = 2, b=-1) </tool>", "add", (), {"a": 2, "b": -1}),
        ("<tool>size(2 + 3 * 4)</tool>", "size", ("2 + 3 * 4",), {}),
        ("<tool>size('x', [1])</tool>", "size", ("x", [1]), {}),
        ("<tool>size(__import__('os'))</tool>", "size", ("__import__('os')",), {}),
        ("<tool>no<tool>add()</tool>", "add", (), {}),
    ],
)
def test_tagged_calls_are_read(
    text: str, name: str, args: tuple[object, ...], named: dict[str, object]
) -> None:
    (call,) = tagged_calls(text)
    assert (call.name, call.args, dict(call.named), call.wrong) == (name, args, named, "")


def test_calls_that_are_none_say_why() -> None:
    assert tagged_calls("no call at all") == []
    assert all(
        tagged_calls(text)[0].wrong for text in ("</tool>", "<tool>3</tool>", "<tool></tool>")
    )
    deep = "<tool>size(" + "(" * 9000 + ")</tool>"
    assert tagged_calls(deep)[0].args == ("(" * 9000,)
    good = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    assert [call.named for call in chat_calls(good + good)] == [{"a": 2}, {"a": 2}]
    for bad in ("<tool_call>{", "<tool_call>[]</tool_call>", '<tool_call>{"name": 1}</tool_call>'):
        assert chat_calls(bad)[0].wrong


def box(project: Path, *names: str, **more: Any) -> Toolbox:
    tools = [{"kind": "python", "source": f"tools.py:{name}"} for name in names]
    return Toolbox({**SAMPLER, "tools": tools, **more}, project)


def test_what_the_model_gets_wrong_it_is_told(project: Path) -> None:
    tools = box(project, "size", "add", on_error="stop")
    assert tools.answer(Call("size", (1234,))) == "4"
    assert tools.answer(Call("add", (2,), {"b": 3})) == "5"
    assert "no tool `ad`; did you mean `add`?" in tools.answer(Call("ad"))
    assert "missing a required argument: 'a'" in tools.answer(Call("add"))
    assert tools.answer(Call("", wrong="a call was not closed")) == "error: a call was not closed"


def test_a_tool_that_fails_is_told_or_stops_the_run(project: Path) -> None:
    told = box(project, "broken", "slow", "odd", timeout=0.2)
    assert told.answer(Call("broken")) == "error: ValueError: no luck"
    assert told.answer(Call("slow")) == "error: took longer than 0.2 seconds"
    assert told.answer(Call("odd")).startswith("error: TypeError: it gave a set")
    with pytest.raises(StageError, match=r"G912.*no luck \(tools.py, line 12") as stopped:
        box(project, "broken", on_error="stop").answer(Call("broken"))
    assert stopped.value.code == "G912"


TEMPLATE = """{%- if tools %}[{{ tools[0].function.name }}]{% endif -%}
{%- for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


def test_a_chat_template_writes_tools_and_results(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny("llama")
    tokenizer: Any = policy.tokenizer
    tokenizer.chat_template = TEMPLATE
    item = Item("c", messages=[{"role": "user", "content": "hi"}])
    monkeypatch.setattr(turns, "chat_calls", calls_of)
    policy.model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(0, 250, 5)]
    rows = talked(policy, project, [item], format="auto", group=12, max_tokens=90).rows
    assert tokenizer.decode(rows[0].prompt_ids) == "[size]<user>hi<|end|><assistant>"
    seen = 0
    for row in rows:
        for number, (start, end) in enumerate(row.observed):
            seen += 1
            between = tokenizer.decode(row.ids[start:end])
            result = row.turns[number]["result"]
            after = f"<tool>{result}<|end|><assistant>"
            ended = row.ids[start - 1] == tokenizer.eos_token_id
            assert between == (after if ended else "<|end|>" + after)
    assert seen > 2
    with pytest.raises(StageError, match="needs data of `messages`"):
        talked(policy, project, ITEMS, format="chat")
