"""The gradient of a step is the formula's on the whole batch, for every library algorithm.

The expected gradient comes from one padded forward pass and `Algorithm.evaluate`; the step engine
must give the same to 1e-9 (float64) however it cuts, packs, shares or orders the batch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GemmaConfig

import grape
from grape.compiler.formula.levels import Level
from grape.compiler.formula.quantities import QUANTITIES
from grape.compiler.formula.vocabulary import TABLES
from grape.runtime.algorithm import LIBRARY, Algorithm
from grape.runtime.core import vocab
from grape.runtime.core.models import Policy, prepared
from grape.runtime.core.packing import Example
from grape.runtime.core.step import Cutting, gradient, values_of
from grape.runtime.core.vocab import Table
from grape.runtime.formula import compile_formula, level_of
from grape.runtime.verbs.fresh import new_model, train_tokenizer

torch.set_num_threads(1)

CLOSE = 1e-9
ARCHITECTURES = ("llama", "gpt2")
ONE, THREE, ALL = 1, 24, 10**6
"""Budgets of input tokens that hold one, about three, and all sequences of the batch."""
CUTS = [
    Cutting(THREE, fused=False, skip=False),
    Cutting(ONE, share=True, packed=True),
    Cutting(THREE, share=True, packed=True),
    Cutting(THREE, share=False, packed=False),
    Cutting(ALL, share=True, packed=False),
    Cutting(ALL, share=False, packed=True),
]


def algorithm_of(name: str) -> Algorithm:
    """An algorithm with every term in: a `beta` that is 0 by default leaves one out."""
    plain = grape.algorithm(name)
    return grape.algorithm(name, beta=0.1) if plain.params.get("beta") == 0 else plain


NAMES = sorted(path.stem for path in LIBRARY.glob("*.grape"))
IDS = {"step", "tree", "cluster", "set"}


@cache
def policy(architecture: str, seed: int = 3) -> Policy:
    settings = {
        "architecture": architecture,
        "layers": 1,
        "hidden": 16,
        "heads": 2,
        "kv_heads": None if architecture == "gpt2" else 1,
        "intermediate": 24,
        "context": 64,
    }
    made = new_model(settings, train_tokenizer(iter(()), 0), seed)
    found = replace(made, model=prepared(made.model.to(torch.float64)))
    for number, name in enumerate(("score", "value")):
        with torch.no_grad():
            found.head(name).weight += torch.linspace(-1 - number, 2, 16, dtype=torch.float64)
    return found


def examples(algorithm: Algorithm) -> list[Example]:
    """Six completions of unequal lengths after two shared prompts, and all that is known of them:
    three and three, or three pairs."""
    make = torch.Generator().manual_seed(5)
    found = []
    for number, size in enumerate((4, 1, 6, 2, 3, 5)):
        group = number // (2 if algorithm.on == "Preferences" else 3)
        prompt = tuple(range(10 + group, 14 + 2 * group))
        completion = tuple(torch.randint(5, 250, (size,), generator=make).tolist())
        tokens, scalars = {}, {"reward": (1.0, 0.0, 0.5, 2.0, -1.0, 0.25)[number]}
        for name in sorted(algorithm.needs - set(scalars)):
            if name in QUANTITIES and (QUANTITIES[name].live or QUANTITIES[name].derived):
                continue
            if name in IDS or level_of(name) is Level.STEP:
                continue
            if level_of(name) is Level.VOCAB:
                continue
            if level_of(name) is Level.TOKEN:
                tokens[name] = (-5.5 + torch.rand(size, generator=make)).tolist()
            else:
                scalars[name] = float(number % 2)
        steps = [place // 2 for place in range(size)]
        tokens["step"] = [float(step) for step in steps]
        for name in algorithm.needs - IDS:
            if level_of(name) is Level.STEP and name != "step_index":
                tokens[name] = [1.0 + (number + step) % 3 for step in steps]
        scalars |= {name: float(number % 2) for name in IDS - {"step"}}
        found.append(Example(prompt, completion, group, tokens, scalars))
    return found


def padded(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor([row + [99.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def live(model: Policy, batch: list[Example], width: int) -> dict[str, Tensor]:
    """`logp`, `entropy`, `value` [S, T], `logp_all` [S, T, V] and `score` [S], each sequence
    through the model by itself."""
    found: dict[str, list[Tensor]] = {}
    for example in batch:
        ids = torch.tensor([example.prompt + example.completion])
        made = model.model(ids, output_hidden_states=True)
        before = slice(len(example.prompt) - 1, -1)
        table = torch.log_softmax(made.logits[0, before], -1)
        states = made.hidden_states[-1][0]
        values = {
            "logp": table.gather(1, torch.tensor(example.completion)[:, None])[:, 0],
            "entropy": -(table.exp() * table).sum(-1),
            "value": states[before] @ model.head("value").weight[0],
            "logp_all": table,
        }
        for name, value in values.items():
            rest = [0, 0] * (value.dim() - 1) + [0, width - len(value)]
            padding = torch.nn.functional.pad(value, rest, value=99.0)
            found.setdefault(name, []).append(padding)
        found.setdefault("score", []).append(states[-1] @ model.head("score").weight[0])
    return {name: torch.stack(rows) for name, rows in found.items()}


def tables(architecture: str, algorithm: Algorithm, batch: list[Example]) -> dict[str, Table]:
    """The distributions of other models that an algorithm reads: one model for each."""
    found = {}
    for seed, name in enumerate(sorted(algorithm.needs & TABLES - {"logp_all"})):
        model = policy(architecture, seed)
        states = values_of(model, batch, Cutting(), ("states",))["states"]
        found[name] = Table.of(model.network, states)
    return found


def tensors(
    model: Policy, algorithm: Algorithm, batch: list[Example], extra: int = 0
) -> dict[str, Tensor]:
    """What `Algorithm.evaluate` takes, with `extra` columns of padding."""
    lengths = [len(example.completion) for example in batch]
    width = max(lengths) + extra
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    group = torch.tensor([example.group for example in batch])
    made = {"mask": mask, "group": group, **live(model, batch, width)}
    architecture = "gpt2" if "GPT2" in type(model.network).__name__ else "llama"
    for seed, name in enumerate(sorted(algorithm.needs & TABLES - {"logp_all"})):
        made[name] = live(policy(architecture, seed), batch, width)["logp_all"].detach()
    for name in algorithm.needs - set(made):
        if name in IDS - {"step"}:
            made[name] = torch.tensor([int(row.scalars[name]) for row in batch])
            continue
        level = Level.TOKEN if name == "step" else level_of(name)
        if level in (Level.TOKEN, Level.STEP):
            made[name] = padded([example.tokens[name] for example in batch], width)
        elif level is not Level.BATCH:
            rows = batch[::2] if level is Level.PAIR else batch
            made[name] = torch.tensor([row.scalars[name] for row in rows], dtype=torch.float64)
        else:
            made[name] = torch.zeros((), dtype=torch.float64)
    return made


def gradients(model: Policy) -> Tensor:
    """All gradients, flat, and none left behind."""
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    for parameter in model.parameters():
        parameter.grad = None
    return torch.cat(found)


@cache
def expected(name: str, architecture: str) -> tuple[float, Tensor]:
    """Loss and gradient from one evaluation of the formula on a padded batch."""
    algorithm, model = algorithm_of(name), policy(architecture)
    loss = algorithm.evaluate(tensors(model, algorithm, examples(algorithm))).loss
    loss.backward()  # type: ignore[no-untyped-call]
    found = gradients(model)
    assert found.norm() > 1e-6, "a gradient of nothing would prove nothing"
    return loss.item(), found


def held(name: str, architecture: str, batch: list[Example], how: Cutting) -> None:
    """The step on `batch`, cut as `how` says, gives the expected loss and gradient."""
    loss, wanted = expected(name, architecture)
    algorithm, model = algorithm_of(name), policy(architecture)
    compiled, others = compile_formula(algorithm.formula), tables(architecture, algorithm, batch)
    step = gradient(model, compiled, batch, given={}, how=how, tables=others)
    found = gradients(model)
    assert abs(step.loss - loss) <= CLOSE * max(1.0, abs(loss)), how
    assert (found - wanted).norm() <= CLOSE * wanted.norm(), how


def test_the_library_is_trained() -> None:
    assert {"sft", "reinforce", "rloo", "grpo", "dapo", "dr_grpo", "dpo"} <= set(NAMES)
    assert {"tree_rl", "tree_grpo", "polychromic", "seed_grpo"} <= set(NAMES)
    assert {"ppo", "dgpo", "fixpo", "reward_model", "gkd", "rover", "bco", "trpo"} <= set(NAMES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_gradient_does_not_depend_on_cutting_packing_or_sharing(
    name: str, architecture: str
) -> None:
    for how in CUTS:
        held(name, architecture, examples(algorithm_of(name)), how)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_does_not_depend_on_the_order_of_rows_and_groups(name: str) -> None:
    algorithm = algorithm_of(name)
    batch = examples(algorithm)
    paired = algorithm.on == "Preferences"
    order = (4, 5, 0, 1, 2, 3) if paired else (5, 2, 0, 4, 1, 3)
    held(name, "llama", [batch[number] for number in order], Cutting(THREE))


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name: str) -> None:
    algorithm, model = algorithm_of(name), policy("gpt2")
    batch = examples(algorithm)
    plain = algorithm.evaluate(tensors(model, algorithm, batch)).loss
    wide = algorithm.evaluate(tensors(model, algorithm, batch, extra=3)).loss
    assert wide.item() == pytest.approx(plain.item(), abs=1e-12)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma"])
def test_float64_norms_compute_what_the_family_computes(kind: str) -> None:
    if kind == "gemma":
        config = GemmaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    else:
        model = policy(kind).model.__class__(policy(kind).network.config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight += torch.linspace(-0.5, 0.5, len(weight))
    ids = torch.arange(1, 8)[None]
    rounded = model(ids).logits.double()
    exact = prepared(model.to(torch.float64))(ids).logits
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, rounded, atol=1e-5, rtol=1e-4)
    shifted = prepared(model)(torch.cat([ids, ids])).logits[1:]
    assert (shifted - exact).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["ppo", "dgpo", "rover", "grpo"])
def test_what_is_not_given_of_before_is_the_current_pass(name: str) -> None:
    algorithm, model = algorithm_of(name), policy("llama")
    batch = [
        replace(one, tokens={k: v for k, v in one.tokens.items() if not k.startswith("old_")})
        for one in examples(algorithm)
    ]
    filled = tensors(model, algorithm, examples(algorithm))
    for old in [need for need in algorithm.needs if need.startswith("old_")]:
        filled[old] = filled[old.removeprefix("old_")].detach()
    loss = algorithm.evaluate(filled).loss
    loss.backward()  # type: ignore[no-untyped-call]
    wanted = gradients(model)
    others = tables("llama", algorithm, batch)
    others.pop("old_logp_all", None)
    for how in CUTS:
        compiled = compile_formula(algorithm.formula)
        step = gradient(model, compiled, batch, given={}, how=how, tables=others)
        assert abs(step.loss - loss.item()) <= CLOSE * max(1.0, abs(loss.item())), how
        assert (gradients(model) - wanted).norm() <= CLOSE * wanted.norm(), how


@pytest.mark.parametrize("name", ["gkd", "rover"])
def test_distributions_do_not_depend_on_how_many_tokens_are_read_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    rows = Table.rows

    def counted(self: Table, slots: Tensor, temperature: float) -> Tensor:
        found = rows(self, slots, temperature)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Table, "rows", counted)
    monkeypatch.setattr(vocab, "CELLS", 600)  # two tokens
    for how in CUTS:
        held(name, "llama", examples(algorithm_of(name)), how)
    assert max(sizes) == 2
