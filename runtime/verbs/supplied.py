"""What a formula needs from other forward passes than the one it trains: of reference and teacher,
and of the policy before its first update. Given once for all examples, handed out by update.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grape.compiler.formula.quantities import markers_of
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.spans import span_of
from grape.runtime.core.step import Cutting, Known, logprobs, values_of
from grape.runtime.core.vocab import Table
from grape.runtime.errors import StageError

_BEFORE = {"old_logp": "logp", "old_value": "value", "old_logp_all": "states"}


def cutting(settings: Mapping[str, Any]) -> Cutting:
    """How the settings of a train stage want a step computed."""
    return Cutting(
        budget=settings["micro_tokens"],
        share=settings["share_prompts"],
        packed=settings["packed"],
        fused=settings["fused_head"],
        skip=settings["skip_idle"],
        own=settings["own_layers"],
    )


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


class Supplied:
    """Flat quantities of all examples of a train stage, and where each example's tokens lie.

    Distributions of other models are computed for one update at a time; those of the policy before
    its first update are kept as hidden states and a copy of its head."""

    def __init__(
        self,
        stage: str,
        needs: frozenset[str],
        inputs: Mapping[str, Any],
        examples: Sequence[Example],
        how: Cutting,
        temperature: float,
    ) -> None:
        self.stage, self.needs, self.inputs = stage, needs, inputs
        self.examples, self.how, self.temperature = examples, how, temperature
        self.frozen: Table | None = None
        self.given: dict[str, Tensor] = {}
        for name, port in (("ref_logp", "reference"), ("teacher_logp", "teacher")):
            if name in needs:
                model = self._other(port)
                self.given[name] = logprobs(model, examples, how, temperature=temperature)
        self.spans = {name: found for name in needs if (found := markers_of(name)) is not None}
        ends = torch.cumsum(torch.tensor([one.counted for one in examples]), 0)
        self.ends: list[int] = ends.tolist()

    def _other(self, port: str) -> Policy:
        if port not in self.inputs:
            raise StageError(f"`{self.stage}` needs a {port} model and has none")
        model: Policy = self.inputs[port]
        return model

    def before(self, policy: Policy) -> None:
        """Note what the formula wants to know of the policy as it is now, and the examples do not
        hold."""
        known = self.examples[0].tokens
        wanted = [now for name, now in _BEFORE.items() if name in self.needs and name not in known]
        if not wanted:
            return
        temperature = self.temperature
        found = values_of(policy, self.examples, self.how, wanted, temperature=temperature)
        if "states" in found:
            self.frozen = Table.of(policy.network, found.pop("states"), frozen=True)
        self.given |= {name: found[now] for name, now in _BEFORE.items() if now in found}

    def of(
        self,
        policy: Policy,
        members: Sequence[int],
        memory: Mapping[str, float],
        progress: float,
        draw: str,
    ) -> Known:
        """What is known of some of the examples before a step of the policy; what is random about
        it is a function of `draw`."""
        lengths = [self.examples[member].counted for member in members]
        starts = [self.ends[member] - n for member, n in zip(members, lengths, strict=True)]
        spans = [torch.arange(at, at + n) for at, n in zip(starts, lengths, strict=True)]
        places = torch.cat(spans)
        given = {name: value[places.to(value.device)] for name, value in self.given.items()}
        if "noise" in self.needs:
            make = torch.Generator().manual_seed(_number(draw))
            given["noise"] = torch.rand(len(places), generator=make).to(policy.device)
        for name, markers in self.spans.items():
            some = [self.examples[member] for member in members]
            given[name] = span_of(policy.tokenizer, some, markers).to(policy.device)
        if "mismatched" in self.needs:
            given["mismatched"] = self._mismatched(policy, members)
        tables = self._tables([self.examples[member] for member in members])
        if self.frozen is not None:
            tables["old_logp_all"] = self.frozen.at(places)
        return Known(given, tables, memory, progress, self.temperature)

    def _mismatched(self, policy: Policy, members: Sequence[int]) -> Tensor:
        """The summed log-ratio [S] of each next row's completion after this row's prompt."""
        rows = [self.examples[member] for member in members]
        mixed = [
            replace(row, completion=other.completion, observed=other.observed)
            for row, other in zip(rows, [*rows[1:], *rows[:1]], strict=True)
        ]
        own, reference = (
            logprobs(model, mixed, self.how, temperature=self.temperature)
            for model in (policy, self._other("reference"))
        )
        lengths = [row.counted for row in mixed]
        return torch.stack([part.sum() for part in torch.split(own - reference, lengths)])

    def _tables(self, examples: Sequence[Example]) -> dict[str, Table]:
        found = {}
        for name, port in (("ref_logp_all", "reference"), ("teacher_logp_all", "teacher")):
            if name in self.needs:
                model = self._other(port)
                states = values_of(model, examples, self.how, ("states",))["states"]
                found[name] = Table.of(model.network, states)
        return found
