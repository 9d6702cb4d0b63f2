"""Which algorithms of the library are online, and the pipeline file that teaches with each.

In come the names and needs of the library's formulas, out come texts in the language. What an
algorithm reads decides what its pipeline has; `CHOSEN` holds the few settings chosen by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from grape.compiler.algorithms import library
from grape.runtime.algorithm import Algorithm, algorithm

SEEDS = (1, 2, 3)
ROUNDS = 20
ITEMS = 300
"""Held-out prompts of an evaluation."""
_TREE = {"tree", "step", "node_value", "parent_value", "leaves", "prefix_value"}
_FOLLOWING = {
    "probe": 'probe(hints = ["\\n>"])',
    "prefix_value": "prefixes(count = 8)",
}
"""What a formula reads, and the sampler that brings it by going on from scored rollouts."""
_TEACHER = {"teacher_logp", "teacher_logp_all"}
_VINE = {"set", "diversity"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is chosen for one algorithm by hand, and why: the last words of its settings."""

    of: str = ""
    """The algorithm, where this is a further row for one of its variants."""
    call: str = ""
    """Arguments of the algorithm."""
    sample: dict[str, str] = field(default_factory=dict)
    """Settings of `sample`."""
    train: dict[str, str] = field(default_factory=dict)
    """Settings of `train`; a value of "" leaves out the usual one."""
    reward: str = ""
    """Declaration of another reward, `taught`, to learn from; `right` judges all the same."""
    why: str = ""


_NATURAL = {"lr": "", "warmup": "", "sequences_per_update": "", "cg_iterations": "4"}
_PENALTY = {"solver": '"penalty"', "penalty": "0"}
_PARTS = """## Right, and long enough, apart.
reward taught() = exact() + 0.5 * regex(pattern = ">..")
"""
_RUBRIC = """## Right, and long enough.
rubric taught() {
  category all {
    item right weight 3 = exact()
    item two weight 1 = regex(pattern = ">..")
  }
}
"""
_LAST = """## Right in the last line, which a probe begins.
reward taught() = exact(extract = "last_line")
"""
CHOSEN: dict[str, Chosen] = {
    "rex_rag": Chosen(reward=_LAST, why="the last line is judged, which a probe begins"),
    "trpo": Chosen(train=_NATURAL, why="no learning rate; few iterations to save time"),
    "fixpo": Chosen(train=_PENALTY, why="its own weight is the penalty"),
    "gdpo": Chosen(reward=_PARTS, why="two rewards"),
    "grape": Chosen(reward=_RUBRIC, why="a rubric of two verified items"),
    "polychromic": Chosen(
        call="entropy_weight = 0.0",
        sample={"prompts": "64"},
        train={"lr": "1e-3", "sequences_per_update": "256"},
        why="a set's reward says little of each member; chosen after `polychromic_usual` fell",
    ),
    "polychromic_usual": Chosen(of="polychromic", why="as the others"),
    "gtpo_apart": Chosen(of="gtpo", call='sets = "apart"', why="as the paper has it"),
    "grpo_s_apart": Chosen(of="grpo_s", call='sets = "apart"', why="as the paper has it"),
}
_APART = (
    "advantages of right completions sum to 0, and so do those of wrong ones: nothing says that "
    "right is better, and the model drifts. Hence the library's default is `together`"
)
REASONS = {
    "gtpo_apart": _APART,
    "grpo_s_apart": _APART,
    "polychromic_usual": (
        "a set's reward says little of each of its four members, and that little drowns in the "
        "noise of 64 completions and in the bonus for entropy; `polychromic` has eight times as "
        "many completions, half the learning rate and no bonus"
    ),
}
"""Why an algorithm does not learn here, where that is known."""


def online(name: str) -> bool:
    """Whether an algorithm learns from what the model in training has just sampled."""
    found = algorithm(name)
    return found.on == "Rollouts" or (found.on == "Preferences" and "old_logp" in found.needs)


def names() -> list[str]:
    """The rows of the table: the online algorithms of the library, then variants."""
    return [name for name in library() if online(name)] + [
        name for name, chosen in CHOSEN.items() if chosen.of
    ]


def formula_of(name: str) -> Algorithm:
    """The algorithm of a row, with its default parameters."""
    return algorithm(CHOSEN.get(name, Chosen()).of or name)


def settings_of(name: str) -> dict[str, str]:
    """The settings of `train` that the pipeline of an algorithm writes out, beside `algorithm`."""
    found = formula_of(name)
    usual = {"lr": "2e-3", "warmup": "10%"}
    if found.needs & {"value", "old_value"}:
        usual["head_lr"] = "1e-2"
    if found.on == "Rollouts" and "old_logp" in found.needs:
        usual["sequences_per_update"] = "64"
    both = usual | CHOSEN.get(name, Chosen()).train
    return {setting: value for setting, value in both.items() if value}


def sampling_of(name: str) -> dict[str, str]:
    """The settings of `sample`: 128 completions a round, drawn as the algorithm needs them."""
    needs = formula_of(name).needs
    if needs & _VINE:
        how = {"prompts": "8", "sampler": "vine(roots = 1, states = 2, width = 8, set_size = 4)"}
    elif needs & _TREE:
        how = {"prompts": "16", "sampler": "tree(roots = 2, rounds = 1, expand = 3)"}
    else:
        how = {"prompts": "16", "group": "8"}
    if "greedy_reward" in needs:
        how["greedy"] = "true"
    return how | {"max_tokens": "5"} | CHOSEN.get(name, Chosen()).sample


def further_of(name: str) -> list[str]:
    """What else the pipeline of an algorithm has, in words."""
    found = formula_of(name)
    further = {
        **{f"`sampler = {how}`": what in found.needs for what, how in _FOLLOWING.items()},
        '`cluster = "text"`': "cluster" in found.needs,
        "pairs of the best and the worst": found.on == "Preferences",
        "the start as reference": "ref_logp" in found.needs,
        "a teacher that learned the answers": bool(found.needs & _TEACHER),
    }
    return [words for words, has in further.items() if has]


def pipeline(name: str) -> str:
    """The file that teaches the task with one algorithm, once for each seed."""
    found, chosen = formula_of(name), CHOSEN.get(name, Chosen())
    reward = "taught()" if chosen.reward else "right()"
    pairs = found.on == "Preferences"
    teacher = bool(found.needs & _TEACHER)
    used = dict.fromkeys(("sft", found.name))
    lines = [
        "grape 1",
        "",
        f'use {", ".join(used)} from "std/algorithms"',
        "",
        "## The two letters, the other way round.",
        "reward right() = exact()",
        "",
        *chosen.reward.splitlines(),
        *([""] if chosen.reward else []),
        f"## From a coin's toss to what the reward wants, with {name}.",
        f"pipeline learn(rounds: int = {ROUNDS}) {{",
        *_ASKED.splitlines(),
        "",
        f"  each seed in [{', '.join(map(str, SEEDS))}] {{",
        '    model base = fresh("llama") {',
        '      layers = 2, hidden = 32, heads = 4, context = 16, tokenizer = "bytes"',
        "    }",
        *_warm("warm", "base", "said", "10"),
        *(_warm("teacher", "warm", "letters", "10") if teacher else []),
        *_evaluation("    ", "before", "warm"),
        "",
        "    repeat rounds with policy = warm {",
        *_sampled(name, reward),
        *(["      stage pairs = pair(scored)"] if pairs else []),
        f"      next policy = train({_inputs(found, pairs, teacher)}) {{",
        f"        algorithm = {found.name}({chosen.call})",
        *([f"        {_written(settings_of(name))}"] if settings_of(name) else []),
        "      }",
        "      every rounds {",
        *_evaluation("        ", "after", "policy"),
        "      }",
        "    }",
        f'    output policy as "models/{name}-{{seed}}"',
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _sampled(name: str, reward: str) -> list[str]:
    """The stages up to `scored`, which the algorithm learns from."""
    needs = formula_of(name).needs
    how = ' { cluster = "text" }' if "cluster" in needs else ""
    lines = [
        "      stage tries = sample(policy, letters.train) {",
        f"        {_written(sampling_of(name))}",
        "      }",
    ]
    for quantity, sampler in _FOLLOWING.items():
        if quantity in needs:
            return [
                *lines,
                f"      stage first = score(tries, {reward})",
                "      stage further = sample(policy, first) {",
                f"        sampler = {sampler}, max_tokens = 10",
                "      }",
                f"      stage scored = score(further, {reward}){how}",
            ]
    return [*lines, f"      stage scored = score(tries, {reward}){how}"]


def _inputs(found: Algorithm, pairs: bool, teacher: bool) -> str:
    inputs = ["policy", "pairs" if pairs else "scored"]
    if "ref_logp" in found.needs:
        inputs.append("reference = warm")
    if teacher:
        inputs.append("teacher = teacher")
    return ", ".join(inputs)


def _written(settings: dict[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


_ASKED = """\
  data said = jsonl("said.jsonl") { prompt = "{letters}", completion = ">{said}", split = 75% }
  data letters = jsonl("letters.jsonl") {
    prompt = "{letters}"
    completion = ">{answer}"
    answer = ">{answer}"
    split = 75%
  }"""


def _warm(name: str, start: str, data: str, epochs: str) -> list[str]:
    return [
        f"    stage {name} = train({start}, {data}.train) {{",
        f"      algorithm = sft(), lr = 5e-3, epochs = {epochs}, sequences_per_update = 64",
        '      schedule = "linear"',
        "    }",
    ]


def _evaluation(indent: str, name: str, model: str) -> list[str]:
    return [
        f"{indent}stage {name} = evaluate({model}, letters.test, right()) {{",
        f"{indent}  prompts = {ITEMS}, group = 4, temperature = 1, max_tokens = 5",
        f"{indent}}}",
    ]
