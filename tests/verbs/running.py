"""A pipeline's stages run in this process, on models from scratch, for tests of samplers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grape.compiler.plan import Plan, Ref
from grape.compiler.planning import make_plan
from grape.compiler.program import load
from grape.runtime.artifacts import Rollouts
from grape.runtime.execute import execute, load_artifact

HEAD = """grape 1

use {uses} from "std/algorithms"

algorithm corrected() on Rollouts {{
  let advantage = reward - mean(reward per group)
  let ratio = min(exp(logp - behavior_logp), 2)
  log ratio = mean(ratio per batch)
  log apart = mean(abs(logp - behavior_logp) per batch)
  log same = mean(abs(logp - old_logp) per batch)
  maximize mean(ratio * advantage per batch)
}}

algorithm sets() on Rollouts {{
  let quality = mean(reward per set) * mean(diversity per set)
  let advantage = if step_index < 2 then quality - mean(quality per group) else 0
  log widest = max(abs(advantage) per batch)
  maximize mean(advantage * logp per batch)
}}

pipeline p() {{
  data sums = jsonl("sums.jsonl") {{ prompt = "{{a}} + {{b}} =", answer = "{{sum}}" }}
  model base = fresh("llama", sums) {{ layers = 1, hidden = 32, heads = 2, context = 64 }}
{body}  output policy as "m"
}}
"""


class Running:
    """A pipeline's stages in this process, with artifacts in folders."""

    def __init__(self, folder: Path, uses: str, body: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"a": a, "b": b, "sum": a + b} for a in range(4) for b in range(4)]
        (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = folder / "p.grape"
        file.write_text(HEAD.format(uses=uses, body=body))
        program = load(file)
        assert program.ok, program.findings
        self.plan: Plan = make_plan(
            program.graph(), project=folder, file=str(file), state_of=lambda key: "run",
            previous=None,
        )  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self.emit: Callable[[dict[str, Any]], None] = self.events.append

    def go(self) -> None:
        """Run every stage that has no artifact yet."""
        for stage in self.plan.stages:
            made, work = self.folder / "made" / stage.name, self.folder / "work" / stage.name
            if made.is_dir():
                continue
            work.mkdir(parents=True, exist_ok=True)
            artifact = execute(stage, self.load, project=self.folder, work=work, emit=self.emit)
            made.mkdir(parents=True)
            artifact.save(made)

    def load(self, ref: Ref) -> Any:
        return load_artifact(self.plan.stage(ref.stage).type, self.folder / "made" / ref.stage)

    def rollouts(self, name: str) -> Rollouts:
        made = self.load(Ref(stage=name))
        assert isinstance(made, Rollouts)
        return made

    def metrics(self, name: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == "metrics" and e["stage"] == name]

    def weights(self) -> bytes:
        return (self.folder / "made" / "policy" / "model.safetensors").read_bytes()
