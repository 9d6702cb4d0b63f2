"""The formulas of memory and work against what torch really keeps, and by hand."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import grape
from grape.compiler.estimates import memory, work
from grape.compiler.estimates.devices import Device, parse_device
from grape.compiler.estimates.facts import facts_of
from grape.compiler.estimates.memory import Line, Update
from grape.compiler.estimates.ranges import Range, amount, duration, size
from grape.compiler.estimates.records import Estimate
from grape.compiler.estimates.stages import estimate_stages
from grape.compiler.estimates.texts import texts_of
from grape.compiler.estimates.work import Sequences

CONFIG = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 2}),
        ("llama", {"intermediate_size": 512}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("gpt2", {}),
    ],
)
@pytest.mark.parametrize("length", [64, 512])
@pytest.mark.parametrize("packed", [True, False])
def test_activations_are_what_autograd_keeps(
    family: str, more: dict[str, Any], length: int, packed: bool
) -> None:
    config = {**CONFIG, **more}
    facts = facts_of({"model_type": family, **config}, "here")
    lines = memory.activations(facts, 4, Range.known(length), packed=packed)
    assert sum(line.bytes.expected for line in lines) == pytest.approx(
        _kept(family, config, length, packed), rel=0.05
    )


def _kept(family: str, config: dict[str, Any], length: int, packed: bool) -> int:
    """Bytes of the distinct tensors that a forward pass of one row saves for its backward."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from grape.runtime.core.attention import Forest, Tree, attending

    made = AutoConfig.for_model(family, **config)
    build: Any = AutoModelForCausalLM.from_config
    model = build(made, attn_implementation="sdpa").eval()
    own = {item.untyped_storage().data_ptr() for item in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    mask = None if packed else torch.ones(length, length).tril().bool()[None, None]
    half = length // 2
    twigs = ((half, half + length // 4), (half + length // 4, length))
    view = attending(model, Forest((Tree(0, half, length, twigs),))) if packed else nullcontext()
    with view, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model(
            input_ids=torch.zeros(1, length, dtype=torch.long),
            attention_mask=mask,
            position_ids=torch.arange(length)[None],
            use_cache=False,
        )
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_the_peak_is_what_is_resident_and_the_largest_phase() -> None:
    lines = [
        Line("a", "", Range.known(5)),
        Line("b", "", Range.known(7), memory.UPDATE),
        Line("c", "", Range.known(2), memory.UPDATE),
        Line("d", "", Range.known(8), memory.STEP),
    ]
    assert memory.peak(lines) == Range.known(14)
    assert memory.peak(lines[:1]) == Range.known(5)


SETTINGS: dict[str, Any] = {
    "adapter": None,
    "packed": True,
    "fused_head": True,
    "own_layers": True,
}


def test_the_optimizer_is_there_early_only_when_there_is_a_second_update() -> None:
    facts = facts_of({"model_type": "llama", **CONFIG}, "here")
    for again, phase in ((False, memory.STEP), (True, memory.RESIDENT)):
        update = Update(Range.known(64), Range.known(32), again, SETTINGS)
        phases = {line.name: line.phase for line in memory.training(facts, 4, update)}
        assert phases["optimizer"] == phase and phases["gradients"] == memory.RESIDENT


def test_an_adapter_trains_few_numbers_and_is_merged_into_a_copy() -> None:
    facts = facts_of({"model_type": "llama", **CONFIG}, "here")
    adapter = {"rank": 4, "targets": "all-linear"}
    update = Update(Range.known(64), Range.known(32), True, {**SETTINGS, "adapter": adapter})
    lines = {line.name: line for line in memory.training(facts, 4, update)}
    assert lines["gradients"].bytes.expected < facts.parameters
    assert lines["merged weights"].bytes.expected == facts.parameters * 4
    assert lines["merged weights"].phase == memory.SAVING


def test_logits_are_never_more_than_one_chunk() -> None:
    facts = facts_of({"model_type": "llama", **CONFIG}, "here")
    most = memory.head(facts, 4, Range.known(memory.CHUNK), fused=False)
    assert memory.head(facts, 4, Range.known(10 * memory.CHUNK), fused=False) == most
    assert most.bytes.expected == memory.CHUNK * 300 * 4 * 4


def test_a_head_without_a_graph_keeps_few_logits_and_the_hidden_states() -> None:
    facts = facts_of({"model_type": "llama", **CONFIG}, "here")
    few = memory.head(facts, 4, Range.known(100), fused=True).bytes.expected
    assert few == 100 * 300 * 4 * 2 + 100 * 64 * 4 * 2
    count = 10 * memory.CELLS
    many = memory.head(facts, 4, Range.known(count), fused=True).bytes.expected
    assert many == memory.CELLS // 300 * 300 * 4 * 2 + count * 64 * 4 * 2


def test_a_head_that_waits_for_log_probs_runs_once_more() -> None:
    facts = facts_of({"model_type": "llama", **CONFIG}, "here")
    made = Sequences(10, 1, Range.known(6), Range.known(4), False)
    once, twice = (work.training(facts, made, SETTINGS, 1, 0, twice=x) for x in (False, True))
    assert twice.flops.expected - once.flops.expected == 40 * 2 * 300 * 64


def test_the_work_of_a_short_forward_pass_is_two_operations_per_parameter() -> None:
    facts = facts_of({"model_type": "llama", **CONFIG}, "here")
    made = Sequences(10, 1, Range.known(6), Range.known(4), False)
    expected = 100 * 2 * facts.matrix_parameters + 40 * 2 * 300 * 64 + 100 * 10 * 2 * 4 * 64
    assert work.forward(facts, made).expected == expected
    trained = work.training(facts, made, SETTINGS, 2, 1)
    assert trained.flops.expected == 7 * expected and trained.tokens.expected == 300


def test_a_shared_prompt_counts_once() -> None:
    shared, apart = (
        Sequences(3, 8, Range.known(10), Range.known(5), shared) for shared in (True, False)
    )
    assert shared.tokens.expected == 3 * 10 + 24 * 5 and apart.tokens.expected == 24 * 15


@pytest.mark.parametrize(
    ("text", "kind", "memory"),
    [
        ("cpu", "cpu", 1000),
        ("cuda:80GiB", "cuda", 80 << 30),
        ("24GiB", "cpu", 24 << 30),
        ("cpu:1.5GiB", "cpu", 3 << 29),
        ("cuda", "cuda", None),
    ],
)
def test_devices_are_named_by_kind_and_size(text: str, kind: str, memory: int | None) -> None:
    found = parse_device(text, Device("cpu", 1000, "cpu"))
    assert (found.kind, found.memory) == (kind, memory)


@pytest.mark.parametrize("text", ["", "gpu", "cuda80GiB", "80GB", "cpu:", ":4GiB"])
def test_anything_else_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="names no device"):
        parse_device(text, Device("cpu", 1000, "cpu"))


def test_numbers_are_written_for_people() -> None:
    assert [size(n) for n in (0, 5 << 20, 3 << 29)] == ["0 KiB", "5 MiB", "1.5 GiB"]
    assert [amount(n) for n in (12, 1234, 5.6e9)] == ["12", "1.23 k", "5.6 G"]
    assert [duration(n) for n in (7, 240, 7800)] == ["7 s", "4 min", "2 h 10 min"]


# --- texts ------------------------------------------------------------------------------------

DATA = {"path": "d.jsonl", "prompt": "{q}{{}}", "completion": "{a}", "split": 0.5, "limit": None}


def test_texts_are_counted_and_rendered(tmp_path: Path) -> None:
    lines = '{"q": "ab", "a": 12}\n\n{"q": "abcd", "a": 3}\n'
    (tmp_path / "d.jsonl").write_text(lines)
    found = texts_of("jsonl", DATA, tmp_path)
    assert found is not None
    assert (found.count(None), found.count("train"), found.count("test")) == (2, 1, 1)
    assert found.parts["prompt"] == ["ab{}", "abcd{}"] and found.parts["completion"] == ["12", "3"]
    assert found.tokens("prompt", len) == Range(4, 5, 6)
    blind = found.tokens("prompt", None)
    assert blind.low <= blind.expected <= blind.high == 6


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"other": 1}\n'])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.jsonl").write_text(text)
    assert texts_of("jsonl", DATA, tmp_path) is None


def test_csv_and_parquet_are_read_too(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "d.csv").write_text("q,a\nab,1\ncd,2\n")
    table = pyarrow.table({"q": ["ab", "cd"], "a": ["1", "2"]})
    parquet.write_table(table, tmp_path / "d.parquet")
    for verb in ("csv", "parquet"):
        found = texts_of(verb, {**DATA, "path": f"d.{verb}"}, tmp_path)
        assert found is not None and found.parts["prompt"] == ["ab{}", "cd{}"] and found.items == 2


def test_a_value_head_and_the_vectors_of_a_solver_are_counted() -> None:
    facts = facts_of({"model_type": "llama", **CONFIG}, "here")
    settings = {"solver": "natural_gradient", "adapter": None}

    def beside(name: str, **changed: str) -> dict[str, int]:
        formula = grape.algorithm(name).formula
        lines = memory.trained_beside(facts, 4, formula, {**settings, **changed})
        return {line.name: int(line.bytes.expected) for line in lines}

    assert beside("grpo") == {}
    assert beside("ppo") == {"value head": 4 * 64 * 4}
    assert beside("reward_model") == {"score head": 4 * 64 * 4}
    assert beside("trpo") == {"solver": 6 * facts.parameters * 4}
    assert beside("trpo", solver="penalty") == {}


def test_a_critic_is_counted_beside_the_policy_and_once_where_it_is_the_policy(
    tmp_path: Path,
) -> None:
    (tmp_path / "data.jsonl").write_text('{"q": "1 + 1 ="}\n')
    file = tmp_path / "judged.grape"
    file.write_text("""grape 1

use grpo from "std/algorithms"

rubric tutor(critic: Model) {
  category all { item kind = ask(critic, "Kind?") }
}

pipeline judged() {
  data rows = jsonl("data.jsonl") { prompt = "{q}" }
  model base = fresh("llama", rows)
  repeat 2 with policy = base {
    stage tries = sample(policy, rows) { prompts = 2, group = 2, max_tokens = 4 }
    stage other = score(tries, tutor(critic = base))
    stage own = score(tries, tutor(critic = policy))
    next policy = train(policy, other) { algorithm = grpo(), lr = 1e-5 }
  }
  stage held = sample(policy, rows) { max_tokens = 4 }
  stage outside = score(held, tutor(critic = base))
}
""")
    stages = grape.load(file).checked.graph().stages
    found = estimate_stages(stages, project=tmp_path, device=Device("cpu", 24 << 30, "cpu"))
    body = found["policy"].body

    def names(estimate: Estimate) -> list[str]:
        return [line.name for line in estimate.lines]

    assert names(body["other"]) == ["critic model", "questions"]
    assert names(body["own"]) == ["questions"]
    assert names(found["outside"]) == ["process", "critic model", "questions"]
    assert names(found["policy"]).count("critic model") == 1


def test_a_teacher_of_whole_distributions_is_counted(tmp_path: Path) -> None:
    rows = "".join(f'{{"q": "{n} + 1 =", "a": " {n + 1}"}}\n' for n in range(40))
    (tmp_path / "rows.jsonl").write_text(rows)
    file = tmp_path / "p.grape"
    file.write_text(
        """grape 1

use gkd from "std/algorithms"

pipeline p() {
  data rows = jsonl("rows.jsonl") { prompt = "{q}", completion = "{a}" }
  model small = fresh("llama", rows) { layers = 1, hidden = 16, heads = 2, context = 64 }
  model big = fresh("llama", rows) { layers = 2, hidden = 32, heads = 2, context = 64 }
  stage tuned = train(small, rows, teacher = big) { algorithm = gkd() }
  output tuned as "tuned"
}
"""
    )
    estimate = grape.load(file).plan().stage("tuned").estimate
    lines = {line["name"]: line for line in estimate["memory_lines"]}
    plan = grape.load(file).plan()
    teacher = plan.stage("big").estimate["parameters"]
    vocab = plan.stage("small").settings["vocab"]
    assert lines["teacher model"]["bytes"]["expected"] == teacher * 4
    tokens = int(lines["teacher states"]["formula"].split()[0])
    assert lines["teacher states"]["bytes"]["expected"] == tokens * 32 * 4
    assert lines["own states"]["bytes"]["expected"] == tokens * 16 * 4
    assert lines["distributions"]["bytes"]["expected"] == tokens * vocab * 2 * 2 * 4
