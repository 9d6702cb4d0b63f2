"""The step engine: the exact gradient of any formula over a whole batch, in micro-batches.

For each micro-batch the formula is evaluated on the whole batch, with the micro-batch's live
log-probs in their slots and everything else constant; its gradient flows into those slots only.
No normaliser is local to a micro-batch, so its size changes nothing but memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from grape.compiler.formula.fixed import foreknown
from grape.compiler.formula.ir import Formula
from grape.compiler.formula.levels import SUBGROUPS, Level
from grape.runtime.core.attention import attending, check_served
from grape.runtime.core.logprob import Weights, fusable, head_gradient, token_values
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example, Micro, micro_batches
from grape.runtime.errors import StageError
from grape.runtime.formula import Compiled, level_of
from grape.runtime.layout import Layout


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a step is computed; none of it changes a gradient."""

    budget: int = 4096
    """Input tokens of a micro-batch."""
    share: bool = True
    """Run a prompt that completions share once."""
    packed: bool = True
    """One row without padding, or padded rows under the model's own attention."""
    fused: bool = True
    """Form the head's gradient chunk by chunk, without a graph."""
    skip: bool = True
    """Leave out sequences that the formula provably does not touch."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a gradient was formed from: the loss and logs of the whole batch."""

    loss: float
    logs: dict[str, float]
    tokens: int


def cut(
    examples: Sequence[Example],
    coupling: Level,
    on: str,
    how: Cutting,
    policy: Policy,
    only: Sequence[int] | None = None,
) -> list[Micro]:
    """The micro-batches of a batch (or of the examples `only`), with what the formula couples kept
    together."""
    if how.packed:
        check_served(policy.network)
    return micro_batches(
        examples,
        budget=how.budget,
        keep_groups=coupling in (Level.GROUP, Level.POSITION),
        paired=on == "Preferences",
        share=how.share,
        packed=how.packed,
        device=policy.device,
        only=only,
    )


def states_of(policy: Policy, micro: Micro) -> Tensor:
    """Hidden states [n, width] before a micro-batch's targets."""
    body = policy.network.base_model
    fed = {"input_ids": micro.input_ids, "position_ids": micro.position_ids, "use_cache": False}
    if micro.forest is None:
        hidden = body(attention_mask=micro.mask(), **fed).last_hidden_state
    else:
        with attending(policy.network, micro.forest):
            hidden = body(attention_mask=None, **fed).last_hidden_state
    return cast(Tensor, hidden.flatten(0, 1).index_select(0, micro.source))


def forward(
    policy: Policy, micro: Micro, *, entropy: bool, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [n] (and entropies [n]) of a micro-batch's targets."""
    states = states_of(policy, micro)
    return token_values(
        policy.network, states, micro.targets, entropy=entropy, temperature=temperature
    )


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


def layout_of(
    formula: Formula, examples: Sequence[Example], device: torch.device | str = "cpu"
) -> Layout:
    """Who belongs to whom in a batch, with the steps and parts of groups that a formula names."""
    parts = {
        level: torch.tensor([int(example.scalars[level]) for example in examples], device=device)
        for level in SUBGROUPS
        if level in formula.index_sets
    }
    steps = None
    if Level.STEP in formula.index_sets:
        of_tokens = [int(step) for example in examples for step in example.tokens["step"]]
        steps = torch.tensor(of_tokens, device=device)
    return Layout.from_lengths(
        [len(example.completion) for example in examples],
        [example.group for example in examples],
        formula.on == "Preferences",
        device,
        steps=steps,
        subgroups=parts,
    )


def constants(
    compiled: Compiled,
    examples: Sequence[Example],
    like: Tensor,
    progress: float,
    layout: Layout,
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
        elif level is Level.STEP and name in examples[0].tokens:
            rows = [value for example in examples for value in example.tokens[name]]
            place = layout.index(Level.TOKEN, Level.STEP)
            empty = like.new_zeros(layout.size(Level.STEP))
            found[name] = empty.index_copy(0, place, like.new_tensor(rows))
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
    parameter = next(policy.model.parameters())
    wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    like = parameter.new_zeros(0, dtype=wide)
    layout = layout_of(compiled.formula, examples, policy.device)
    fixed = {**constants(compiled, examples, like, progress, layout), **given}
    return _Stepping(policy, compiled, examples, layout, fixed, like, how, temperature).run()


class _Stepping:
    """One step: what is constant in it, and the live values as far as they are known."""

    def __init__(
        self,
        policy: Policy,
        compiled: Compiled,
        examples: Sequence[Example],
        layout: Layout,
        fixed: dict[str, Tensor],
        like: Tensor,
        how: Cutting,
        temperature: float,
    ) -> None:
        self.policy, self.compiled, self.examples = policy, compiled, examples
        self.fixed, self.how, self.temperature = fixed, how, temperature
        self.layout = layout
        formula = compiled.formula
        self.entropy = "entropy" in formula.needs
        self.on_policy = "old_logp" in formula.needs and "old_logp" not in fixed
        self.known = foreknown(formula, on_policy=self.on_policy)
        names = ["logp", "entropy"] if self.entropy else ["logp"]
        self.live = {name: like.new_zeros(len(self.layout.token_sequence)) for name in names}

    def run(self) -> Step:
        formula = self.compiled.formula
        resting = self._resting()
        busy = [number for number, rests in enumerate(resting) if not rests]
        micros = self._cut(busy)
        fused = self.how.fused and fusable(self.policy.network)
        known = self._weights(self.live) if fused and self.known.weights else None
        if formula.coupling is Level.BATCH and len(micros) > 1 and known is None:
            self._fill(micros)
        for micro in micros:
            if fused:
                self._fused(micro, known)
            else:
                self._plain(micro)
        if not micros:  # an optimizer moves weights by a gradient of zero, too
            for parameter in self.policy.model.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        if not self.known.logs and len(busy) < len(resting):
            self._fill(self._cut([number for number, rests in enumerate(resting) if rests]))
        return self._told()

    def _resting(self) -> list[bool]:
        """Which sequences the formula does not touch; both of a pair, or none."""
        if not self.how.skip:
            return [False] * len(self.examples)
        idle = self.compiled.idle(self.fixed, self.layout)
        if self.layout.paired:
            idle = (idle[::2] & idle[1::2]).repeat_interleave(2)
        return cast(list[bool], idle.tolist())

    def _cut(self, only: list[int]) -> list[Micro]:
        formula = self.compiled.formula
        return cut(self.examples, formula.coupling, formula.on, self.how, self.policy, only)

    def _complete(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {"old_logp": values["logp"].detach()} if self.on_policy else {}
        return {**self.fixed, **values, **old}

    def _weights(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of the loss by every live value, flat [N]."""
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        loss = self.compiled.loss(self._complete(leaves), self.layout)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if grad is None else grad.to(leaf.dtype)
            for (name, leaf), grad in zip(leaves.items(), found, strict=True)
        }

    def _fused(self, micro: Micro, known: dict[str, Tensor] | None) -> None:
        """The head's gradient without a graph, then the body's by one backward pass."""
        network = self.policy.network
        states = states_of(self.policy, micro)
        apart = states.detach()
        if known is None:
            with torch.no_grad():
                self._note(micro, self._values(apart, micro))
            known = self._weights(self.live)
        weights = Weights(*(known[name][micro.slots] for name in self.live))
        *found, back = head_gradient(
            network, apart, micro.targets, weights, temperature=self.temperature
        )
        self._note(micro, found)
        states.backward(back)  # type: ignore[no-untyped-call]

    def _plain(self, micro: Micro) -> None:
        """The gradient of everything by autograd."""
        found = self._values(states_of(self.policy, micro), micro)
        placed = {
            name: self.live[name].index_copy(0, micro.slots, value)
            for name, value in zip(self.live, found, strict=True)
        }
        self.compiled.loss(self._complete(placed), self.layout).backward()  # type: ignore[no-untyped-call]
        self.live = {name: value.detach() for name, value in placed.items()}

    def _values(self, states: Tensor, micro: Micro) -> list[Tensor]:
        found = token_values(
            self.policy.network,
            states,
            micro.targets,
            entropy=self.entropy,
            temperature=self.temperature,
        )
        return [value for value in found if value is not None]

    @torch.no_grad()
    def _fill(self, micros: Sequence[Micro]) -> None:
        """Live values from a forward pass alone."""
        for micro in micros:
            self._note(micro, self._values(states_of(self.policy, micro), micro))

    def _note(self, micro: Micro, found: Sequence[Tensor]) -> None:
        for name, value in zip(self.live, found, strict=True):
            self.live[name][micro.slots] = value

    @torch.no_grad()
    def _told(self) -> Step:
        values = self._complete(self.live)
        loss = float(self.compiled.loss(values, self.layout))
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise StageError(
                f"the loss of `{self.compiled.formula.name}` is {loss}",
                hint="a lower learning rate, a smaller clip_norm or clamped ratios usually mend "
                "this",
            )
        logs = self.compiled.logs(values, self.layout)
        return Step(loss, logs, len(self.layout.token_sequence))
