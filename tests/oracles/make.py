"""Computes every oracle and writes `golden/ALGORITHM.json`: `make oracles`.

A file holds the batch, and for each oracle the parameters of Grape's algorithm, what computed the
numbers, the loss and its gradient. All in float64, but where the other library rounds inside.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oracles import with_liger, with_trl, with_verl
from oracles.oracle import LIVE, Batch, Oracle

GOLDEN = Path(__file__).parent / "golden"
PACKAGES = ("torch", "transformers", "trl", "verl", "liger-kernel")


def computed(oracle: Oracle) -> dict[str, Any]:
    """One oracle's loss and gradient as JSON."""
    batch = oracle.batch()
    live = {name: batch[name].requires_grad_() for name in LIVE if name in batch}
    loss = oracle.loss(batch)
    found = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
    return {
        "function": oracle.function,
        "params": oracle.params,
        "loss": loss.item(),
        "gradient": {
            name: grad.tolist() for name, grad in zip(live, found, strict=True) if grad is not None
        },
    }


def plain(batch: Batch) -> dict[str, Any]:
    return {name: _listed(value) for name, value in batch.items()}


def _listed(value: Tensor) -> Any:
    return (value.long() if value.dtype == torch.bool else value.detach()).tolist()


def text(document: dict[str, Any]) -> str:
    """JSON with each row of numbers on one line."""
    spread = json.dumps(document, indent=1)
    rows = re.sub(r"\[([^\[\]{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", spread)
    return rows + "\n"


def main() -> None:
    torch.set_default_dtype(torch.float64)  # some of verl's constants take the default
    oracles: list[Oracle] = [*with_trl.ORACLES, *with_verl.ORACLES, *with_liger.ORACLES]
    versions = {name: version(name).partition("+")[0] for name in PACKAGES}
    for name in sorted({oracle.algorithm for oracle in oracles}):
        mine = [oracle for oracle in oracles if oracle.algorithm == name]
        assert len({oracle.batch for oracle in mine}) == 1, name
        cases = [computed(oracle) for oracle in mine]
        document = {"algorithm": name, "versions": versions, "batch": plain(mine[0].batch())}
        (GOLDEN / f"{name}.json").write_text(text({**document, "cases": cases}), encoding="utf-8")
        print(f"{name}: " + ", ".join(f"{case['loss']:.9f}" for case in cases))


if __name__ == "__main__":
    main()
