"""The step engine: the exact gradient of any formula over a whole batch, in micro-batches.

For each micro-batch the formula is evaluated on the whole batch, with the micro-batch's live
log-probs in their slots and everything else constant; its gradient flows into those slots only.
No normaliser is local to a micro-batch, so its size changes nothing but memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grape.compiler.formula.levels import Level
from grape.runtime.core.logprob import token_values
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example, Micro, micro_batches
from grape.runtime.errors import StageError
from grape.runtime.formula import Compiled, level_of
from grape.runtime.layout import Layout


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a batch is cut; none of it changes a gradient."""

    budget: int = 4096
    """Input tokens of a micro-batch."""
    share: bool = True
    """Run a prompt that completions share once."""
    packed: bool = True
    """One row without padding, or padded rows."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a gradient was formed from: the loss and logs of the whole batch."""

    loss: float
    logs: dict[str, float]
    tokens: int


def cut(
    examples: Sequence[Example], coupling: Level, on: str, how: Cutting, policy: Policy
) -> list[Micro]:
    """The micro-batches of a batch, with what the formula couples kept together."""
    return micro_batches(
        examples,
        budget=how.budget,
        keep_groups=coupling in (Level.GROUP, Level.POSITION),
        paired=on == "Preferences",
        share=how.share,
        packed=how.packed,
        device=policy.device,
    )


def forward(
    policy: Policy, micro: Micro, *, entropy: bool, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [n] (and entropies [n]) of a micro-batch's targets."""
    network = policy.network
    hidden = network.base_model(
        input_ids=micro.input_ids,
        attention_mask=micro.mask(),
        position_ids=micro.position_ids,
        use_cache=False,
    ).last_hidden_state
    states = hidden.flatten(0, 1)[micro.source]
    return token_values(network, states, micro.targets, entropy=entropy, temperature=temperature)


@torch.no_grad()
def logprobs(
    policy: Policy, examples: Sequence[Example], how: Cutting, *, temperature: float = 1.0
) -> Tensor:
    """Log-probs of every completion token under a policy, flat [N], without gradient."""
    found: Tensor | None = None
    total = sum(len(example.completion) for example in examples)
    for micro in cut(examples, Level.TOKEN, "Demos", how, policy):
        values, _ = forward(policy, micro, entropy=False, temperature=temperature)
        if found is None:
            found = values.new_zeros(total)
        found[micro.slots] = values
    assert found is not None
    return found


def constants(
    compiled: Compiled, examples: Sequence[Example], like: Tensor, progress: float
) -> dict[str, Tensor]:
    """The constant quantities that the formula needs and the examples hold, as flat tensors."""
    found = {}
    for name in compiled.formula.needs:
        level = level_of(name)
        if name == "progress":
            found[name] = like.new_tensor(progress)
        elif level is Level.TOKEN and all(name in example.tokens for example in examples):
            rows = [value for example in examples for value in example.tokens[name]]
            found[name] = like.new_tensor(rows)
        elif level is Level.SEQUENCE and name in examples[0].scalars:
            found[name] = like.new_tensor([example.scalars[name] for example in examples])
        elif level is Level.PAIR and name in examples[0].scalars:
            found[name] = like.new_tensor([example.scalars[name] for example in examples[::2]])
    return found


def gradient(
    policy: Policy,
    compiled: Compiled,
    examples: Sequence[Example],
    *,
    given: dict[str, Tensor],
    how: Cutting,
    progress: float = 0.0,
    temperature: float = 1.0,
) -> Step:
    """Add the gradient of the loss on a whole batch to the parameters' `.grad`.

    `given` holds flat token quantities from other forward passes (`ref_logp`, `old_logp`). When
    `old_logp` is needed and not given, the batch is used for exactly this step, and it is the
    current log-probs without their gradient. Raises StageError when the loss is not finite.
    """
    formula = compiled.formula
    paired = formula.on == "Preferences"
    layout = Layout.from_lengths(
        [len(example.completion) for example in examples],
        [example.group for example in examples],
        paired,
        policy.device,
    )
    parameter = next(policy.model.parameters())
    like = parameter.new_zeros(
        0, dtype=torch.float64 if parameter.dtype == torch.float64 else torch.float32
    )
    fixed = {**constants(compiled, examples, like, progress), **given}
    entropy = "entropy" in formula.needs
    names = ["logp", "entropy"] if entropy else ["logp"]
    live = {name: like.new_zeros(len(layout.token_sequence)) for name in names}
    on_policy = "old_logp" in formula.needs and "old_logp" not in fixed
    micros = cut(examples, formula.coupling, formula.on, how, policy)

    def complete(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**fixed, **values, **({"old_logp": values["logp"].detach()} if on_policy else {})}

    if formula.coupling is Level.BATCH and len(micros) > 1:
        with torch.no_grad():
            for micro in micros:
                _fill(live, micro, forward(policy, micro, entropy=entropy, temperature=temperature))
    for micro in micros:
        found = forward(policy, micro, entropy=entropy, temperature=temperature)
        pairs = zip(names, found, strict=False)
        placed = {
            name: live[name].index_copy(0, micro.slots, value)
            for name, value in pairs
            if value is not None
        }
        compiled.loss(complete(placed), layout).backward()  # type: ignore[no-untyped-call]
        live = {name: value.detach() for name, value in placed.items()}
    with torch.no_grad():
        loss = float(compiled.loss(complete(live), layout))
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise StageError(
            f"the loss of `{formula.name}` is {loss}",
            hint="a lower learning rate, a smaller clip_norm or clamped ratios usually mend this",
        )
    return Step(loss, compiled.logs(complete(live), layout), len(layout.token_sequence))


def _fill(live: dict[str, Tensor], micro: Micro, found: tuple[Tensor, Tensor | None]) -> None:
    for name, value in zip(live, found, strict=False):
        if value is not None:
            live[name][micro.slots] = value
