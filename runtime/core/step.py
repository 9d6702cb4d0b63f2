"""The step engine: the exact gradient of any formula over a whole batch, in micro-batches.

For each micro-batch the formula is evaluated on the whole batch, with the micro-batch's live
log-probs in their slots and everything else constant; its gradient flows into those slots only.
No normaliser is local to a micro-batch, so its size changes nothing but memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from grape.compiler.formula.fixed import foreknown
from grape.compiler.formula.ir import Formula
from grape.compiler.formula.levels import SUBGROUPS, Level
from grape.compiler.formula.vocabulary import split
from grape.runtime import ranks
from grape.runtime.core import exchange, tape
from grape.runtime.core.attention import attending, check_served
from grape.runtime.core.layers import served
from grape.runtime.core.live import Live, Piece
from grape.runtime.core.logprob import fusable
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example, Micro, micro_batches
from grape.runtime.core.vocab import Reductions, Table
from grape.runtime.errors import StageError
from grape.runtime.formula import Compiled, compile_formula, level_of
from grape.runtime.layout import Layout

WIDER = 4
"""How much larger micro-batches may be when their activations are there already."""


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
    own: bool = True
    """Run layers that are known here as they are written here, or all under autograd."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a gradient was formed from: the loss and logs of the whole batch, and what the formula
    remembers for the next one."""

    loss: float
    logs: dict[str, float]
    tokens: int
    memory: dict[str, float] = field(default_factory=dict)


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


def states_of(
    policy: Policy,
    micro: Micro,
    how: Cutting,
    kept: tape.Tape | None = None,
    *,
    spend: bool = False,
) -> Tensor:
    """Hidden states [n, width] before a micro-batch's targets; see `tape.states` for `spend`."""
    if micro.forest is not None and how.own and served(policy.network):
        found = tape.states(policy.network, micro, kept, spend=spend)
        return found.index_select(0, micro.source)
    body = policy.network.base_model
    fed = {"input_ids": micro.input_ids, "position_ids": micro.position_ids, "use_cache": False}
    if micro.forest is None:
        hidden = body(attention_mask=micro.mask(), **fed).last_hidden_state
    else:
        with attending(policy.network, micro.forest):
            hidden = body(attention_mask=None, **fed).last_hidden_state
    return cast(Tensor, hidden.flatten(0, 1).index_select(0, micro.source))


@torch.no_grad()
def logprobs(
    policy: Policy, examples: Sequence[Example], how: Cutting, *, temperature: float = 1.0
) -> Tensor:
    """Log-probs of every completion token under a policy, flat [N], without gradient."""
    return values_of(policy, examples, how, ("logp",), temperature=temperature)["logp"]


@torch.no_grad()
def values_of(
    policy: Policy,
    examples: Sequence[Example],
    how: Cutting,
    names: Sequence[str],
    *,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Live quantities by name, flat, without gradient; `states` are the hidden states [N, width]
    before every token."""
    live = Live(policy, names, examples, temperature)
    found: dict[str, Tensor] = {}
    for micro in cut(live.fed, Level.TOKEN, "Demos", how, policy):
        piece = live.piece(micro)
        states = states_of(policy, micro, how)
        read = live.read(states, piece) if live.names else {}
        if "states" in names:
            read["states"] = piece.of_tokens(states)
        for name, value in read.items():
            if name not in found:
                count = len(examples) if name == "score" else live.tokens
                found[name] = value.new_zeros((count, *value.shape[1:]))
            found[name][piece.places(name)] = value
    return exchange.united(found, policy.device)


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
        [example.counted for example in examples],
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
    tables: Mapping[str, Table] | None = None,
    memory: Mapping[str, float] | None = None,
    progress: float = 0.0,
    temperature: float = 1.0,
) -> Step:
    """Add the gradient of the loss on a whole batch to the parameters' `.grad`.

    `given` holds flat token quantities from other forward passes (`ref_logp`, `old_logp`), `tables`
    distributions (`ref_logp_all`). What is needed of `old_…` and not given is that of a batch used
    for exactly this step: the current one without its gradient. `memory` is what the last batch
    left of every `state`; without it each starts anew. Raises StageError when the loss is not
    finite.
    """
    known = Known(given, tables or {}, memory or {}, progress, temperature)
    return Stepping(policy, compiled, examples, known, how).run()


@dataclass(frozen=True, slots=True)
class Known:
    """What a step is told beside its examples; see `gradient`."""

    given: Mapping[str, Tensor]
    tables: Mapping[str, Table]
    memory: Mapping[str, float]
    progress: float = 0.0
    temperature: float = 1.0


class Stepping:
    """One step: what is constant in it, and the live values as far as they are known."""

    def __init__(
        self,
        policy: Policy,
        compiled: Compiled,
        examples: Sequence[Example],
        known: Known,
        how: Cutting,
    ) -> None:
        self.policy, self.examples, self.how = policy, examples, how
        parameter = next(policy.model.parameters())
        wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        like = parameter.new_zeros(0, dtype=wide)
        kept = {f"state.{name}": like.new_tensor(value) for name, value in known.memory.items()}
        self.layout = layout_of(compiled.formula, examples, policy.device)
        found = constants(compiled, examples, like, known.progress, self.layout)
        fixed: dict[str, Tensor] = {**found, **kept, **known.given}
        self.fixed = fixed
        temperature = known.temperature
        formula = compiled.formula
        parts = split(formula)
        self.compiled = compiled if parts is None else compile_formula(parts.outer)
        self.copied = {
            name: name.removeprefix("old_")
            for name in self.compiled.formula.needs
            if name.startswith("old_") and name not in fixed
        }
        self.known = foreknown(self.compiled.formula, on_policy=bool(self.copied))
        wanted = self.compiled.formula.needs | set(self.copied.values())
        reduced = None
        if parts is not None:
            network = policy.network
            reduced = Reductions(parts, network, self.layout, fixed, known.tables, temperature)
        self.reader = Live(policy, wanted, examples, temperature, reduced)
        self.live = {
            name: like.new_zeros(len(examples) if name == "score" else self.reader.tokens)
            for name in self.reader.names
        }

    def run(self) -> Step:
        """Add the gradient to the parameters' `.grad`."""
        resting = self._resting()
        busy = [number for number, rests in enumerate(resting) if not rests]
        micros = self._micros(busy)
        fused = self.how.fused and fusable(self.policy.network)
        known = self.weights() if fused and self.known.weights else None
        formula = self.compiled.formula
        several = len(micros) > 1 or ranks.size() > 1
        if formula.coupling is Level.BATCH and several and known is None:
            self.fill(micros)
        for number, micro in enumerate(micros, 1):
            states = states_of(
                self.policy, micro, self.how, self.kept(), spend=number == len(micros)
            )
            if fused:
                self._fused(micro, states, known)
            else:
                self._plain(micro, states)
        exchange.add_gradients(self.policy.parameters())
        self._merge(micros)
        if not busy:  # an optimizer moves weights by a gradient of zero, too
            for parameter in self.policy.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        told = self.known.logs and not formula.memory
        if not told and len(busy) < len(resting):
            self.fill(self._micros([number for number, rests in enumerate(resting) if rests]))
        self.policy.tape = None
        return self._told()

    def kept(self) -> tape.Tape | None:
        """What a decoding by just these weights left."""
        found: tape.Tape | None = self.policy.tape
        if found is None or found.version != tape.version(self.policy.network):
            return None
        return found

    def _micros(self, members: Sequence[int]) -> list[Micro]:
        """Micro-batches of sequences; larger ones where no forward pass keeps every layer of them
        at once beside what is there already."""
        kept = self.kept() if self.how.own and self.how.packed else None
        if kept is None or not served(self.policy.network):
            return self.cut(members)
        for one in (self.reader.fed[number] for number in members):
            if not kept.holds(one.prompt, one.completion):
                return self.cut(members)
        return self.cut(members, how=replace(self.how, budget=self.how.budget * WIDER))

    def _resting(self) -> list[bool]:
        """Which sequences the formula does not touch; both of a pair, or none."""
        if not self.how.skip:
            return [False] * len(self.examples)
        idle = self.compiled.idle(self.fixed, self.layout)
        if self.layout.paired:
            idle = (idle[::2] & idle[1::2]).repeat_interleave(2)
        return cast(list[bool], idle.tolist())

    def cut(self, only: Sequence[int] | None = None, *, how: Cutting | None = None) -> list[Micro]:
        """The micro-batches of the batch, or of some of its sequences."""
        formula, way = self.compiled.formula, how or self.how
        return cut(self.reader.fed, formula.coupling, formula.on, way, self.policy, only)

    def complete(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Live values with everything constant, and what was before the update where that is the
        same."""
        old = {name: values[now].detach() for name, now in self.copied.items()}
        return {**self.fixed, **values, **old}

    def weights(self) -> dict[str, Tensor]:
        """The gradient of the loss by every live value, flat."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.live.items()}
        loss = self.compiled.loss(self.complete(leaves), self.layout)
        return pulled(loss, leaves)

    def _fused(self, micro: Micro, states: Tensor, known: dict[str, Tensor] | None) -> None:
        """The head's gradient without a graph, then the body's by one backward pass."""
        piece = self.reader.piece(micro)
        if known is None:
            with torch.no_grad():
                self._note(piece, self.reader.read(states.detach(), piece))
            known = self.weights()
        self.pull(piece, states, known)

    def pull(self, piece: Piece, states: Tensor, weights: Mapping[str, Tensor]) -> None:
        """Add the gradient of the weighted sum of live values, and note them."""
        if not fusable(self.policy.network):
            read = self.reader.read(states, piece)
            parts = [
                (value * weights[name][piece.places(name)]).sum() for name, value in read.items()
            ]
            torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
            return self._note(piece, {name: value.detach() for name, value in read.items()})
        found, back = self.reader.backward(states.detach(), piece, weights)
        self._note(piece, found)
        states.backward(back)  # type: ignore[no-untyped-call]

    def _plain(self, micro: Micro, states: Tensor) -> None:
        """The gradient of everything by autograd."""
        piece = self.reader.piece(micro)
        found = self.reader.read(states, piece)
        placed = {
            name: self.live[name].index_copy(0, piece.places(name), value.to(self.live[name]))
            for name, value in found.items()
        }
        self.compiled.loss(self.complete(placed), self.layout).backward()  # type: ignore[no-untyped-call]
        self.live = {name: value.detach() for name, value in placed.items()}

    @torch.no_grad()
    def fill(self, micros: Sequence[Micro]) -> None:
        """Live values from a forward pass alone."""
        for micro in micros:
            piece = self.reader.piece(micro)
            states = states_of(self.policy, micro, self.how, self.kept())
            self._note(piece, self.reader.read(states, piece))
        self._merge(micros)

    def _merge(self, micros: Sequence[Micro]) -> None:
        """The live values of all processes' micro-batches, where each has filled in its own."""
        pieces = [self.reader.piece(micro) for micro in micros if ranks.size() > 1]
        own = {name: [piece.places(name) for piece in pieces] for name in self.live}
        self.live = exchange.merged(self.live, own)

    def _note(self, piece: Piece, found: Mapping[str, Tensor]) -> None:
        for name, value in found.items():
            self.live[name][piece.places(name)] = value.to(self.live[name].dtype)

    @torch.no_grad()
    def _told(self) -> Step:
        values = self.complete(self.live)
        loss = float(self.compiled.loss(values, self.layout))
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise StageError(
                f"the loss of `{self.compiled.formula.name}` is {loss}",
                hint="a lower learning rate, a smaller clip_norm or clamped ratios usually mend "
                "this",
            )
        logs = self.compiled.logs(values, self.layout)
        memory = (
            self.compiled.next_state(values, self.layout) if self.compiled.formula.memory else {}
        )
        return Step(loss, logs, len(self.layout.token_sequence), memory)


def pulled(value: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a number by leaves; zero where it does not depend on them."""
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if grad is None else grad.to(leaf.dtype)
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }
