"""Artifact types: what an edge of the graph carries.

A type is a kind and the facts that must stay compatible along edges. A fact that only a file can
tell is absent until probed.
"""

from __future__ import annotations

from dataclasses import dataclass

SERVER = "server"
"""The engine of a served model that gives token ids and log-probs, not text alone."""


@dataclass(frozen=True, slots=True)
class ArtifactType:
    """`name`: Model, Data, Demos, Rollouts, Preferences, Ratings, Report or Files.

    `scored` tells scored Rollouts from fresh ones; `columns` are the parts that data has
    (`prompt`, `completion`, `chosen`, `rejected`, `answer`, `messages`, `desirable`); `parts` the
    labels of the rewards that scored them; `split` whether data has `.train` and `.test`;
    `served` a Model without weights here, or Rollouts that such a model wrote: text, no tokens;
    `adds` what the sampler brings to formulas beside the reward: quantities and levels.
    """

    name: str
    scored: bool = False
    columns: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()
    split: bool = False
    served: bool = False
    judges: bool = False
    """A Model with a score head, which `score` takes for a reward."""
    adds: frozenset[str] = frozenset()
    engine: str = ""
    """Of Rollouts: what ran the model. Of a served Model: `server` where it gives tokens."""
    group: int = 0
    """Of Rollouts: completions of each prompt, as they were sampled."""

    def __str__(self) -> str:
        return f"scored {self.name}" if self.scored else self.name


def described(made: ArtifactType) -> str:
    """A type in the reader's words, with its article."""
    if made.name != "Data":
        kind = "served " if made.served and made.name == "Model" else ""
        return f"a {kind}{made}" if made.name in ("Model", "Report") else str(made)
    parts = sorted(made.columns - {"environment"})
    return f"data with {', '.join(parts)}" if parts else "data without templates"


def usable_as(made: ArtifactType, wanted: str) -> bool:
    """Whether an artifact can be used as `wanted`: an artifact name, `scored Rollouts`,
    `Prompts` (data with prompts), `Prompts or Rollouts` (with
    tokens), `Training data` (whatever `train` learns from) or `Text`."""
    has = made.columns
    data = made.name == "Data"
    match wanted:
        case "Prompts or Rollouts":
            return usable_as(made, "Prompts") or (made.name == "Rollouts" and not made.served)
        case "Prompts":
            return data and "prompt" in has
        case "Demos":
            return made.name == "Demos" or (
                data and ({"prompt", "completion"} <= has or "messages" in has)
            )
        case "Preferences":
            return made.name == "Preferences" or (data and {"prompt", "chosen", "rejected"} <= has)
        case "Ratings":
            return made.name == "Ratings" or (data and {"prompt", "completion", "desirable"} <= has)
        case "scored Rollouts":
            return made.name == "Rollouts" and made.scored
        case "Text":
            return made.name in ("Data", "Demos")
        case "Training data":
            return made.name in ("Data", "Demos", "Rollouts", "Preferences", "Ratings")
    return made.name == wanted


def way_from(made: ArtifactType, wanted: str, name: str) -> str | None:
    """The step that leads from what is there to what is wanted, as a hint."""
    scored = made.name == "Rollouts" and made.scored
    fresh = made.name == "Rollouts" and not made.scored
    match wanted:
        case "scored Rollouts" | "Rollouts":
            if fresh:
                return f"score it first: `score({name}, REWARD)`"
            if usable_as(made, "Prompts"):
                return f"sample it first: `sample(MODEL, {name})`"
        case "Preferences":
            if scored:
                return f"pair it first: `pair({name})`"
            if fresh:
                return f"score it and pair it first: `score({name}, REWARD)`, then `pair(…)`"
            if made.name == "Data":
                return "give it templates for `prompt`, `chosen` and `rejected`"
        case "Demos":
            if scored:
                return f"take the best of it first: `best({name})`"
            if fresh:
                return f"score it and take the best: `score({name}, REWARD)`, then `best(…)`"
            if made.name == "Data":
                return "give it templates for `prompt` and `completion`"
        case "Ratings":
            if made.name == "Data":
                return "give it templates for `prompt`, `completion` and `desirable`"
        case "Prompts" | "Prompts or Rollouts":
            if made.name == "Data":
                return "give it a template for `prompt`"
    return None
