"""Programs that are right by construction, drawn by Hypothesis.

`programs()` gives whole files: parameters with constraints, rewards, rubrics, algorithms in the
calculus, pipelines with every statement, and settings of every verb, within the limits that the
settings' own models state. `sprinkled(text)` adds comments and odd spacing without changing what a
text says. What the files mean is the checker's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from generate.knobs import settings_of
from hypothesis import strategies as st

from grape.compiler.verbs.train import Lora

Draw = st.DrawFn

ROWS = "".join(
    f'{{"a": {n}, "b": {n + 1}, "sum": {2 * n + 1}, "worse": {n}, "good": true}}\n'
    for n in range(40)
)
"""The file `rows.jsonl` that the programs read."""

# --- the calculus -----------------------------------------------------------------------------


def token(depth: int) -> st.SearchStrategy[str]:
    """An expression with a value per token, differentiable through `logp`."""
    if depth == 0:
        return st.sampled_from(["logp", "logp - old_logp", "exp(logp - old_logp)", "2 * logp"])
    inner = token(depth - 1)
    outer = sequence(depth - 1)
    return st.one_of(
        inner,
        st.builds("min({}, {})".format, inner, inner),
        st.builds("clamp({}, -{}, {})".format, inner, st.integers(1, 9), st.integers(1, 9)),
        st.builds("({}) * ({})".format, inner, outer),
        st.builds("abs({}) + ({})".format, inner, inner),
        st.builds("if reward > 0.5 then {} else ({})".format, inner, inner),
        st.builds("({}) - detach({})".format, inner, inner),
        st.builds("tanh({})".format, inner),
    )


def sequence(depth: int) -> st.SearchStrategy[str]:
    """A constant expression with a value per sequence."""
    if depth <= 0:
        return st.sampled_from(
            ["reward", "reward - mean(reward per group)", "reward - median(reward per batch)"]
        )
    inner = sequence(depth - 1)
    return st.one_of(
        inner,
        st.builds("({}) / (std(reward per group) + {})".format, inner, st.sampled_from(["1e-4"])),
        st.builds("max({}, {})".format, inner, inner),
        st.builds("mean(detach({}) per sequence)".format, token(0)),
        st.builds("({}) ^ 2 + ({})".format, inner, inner),
    )


@st.composite
def algorithm(draw: Draw, name: str) -> str:
    body = [f"  let advantage = {draw(sequence(2))}"]
    if draw(st.booleans()):
        body.append(
            f"  log clipped = mean(abs({draw(token(0))}) > {draw(st.integers(0, 3))} per batch)"
        )
    gain = f"logp * detach(advantage) + beta * ({draw(token(2))})"
    inner = draw(st.sampled_from(["mean", "sum"]))
    body.append(f"  maximize mean({inner}({gain} per sequence) per batch)")
    lines = "\n".join(body)
    return f"algorithm {name}(beta: float = 0.04 where beta >= 0) on Rollouts {{\n{lines}\n}}"


# --- rewards and rubrics ----------------------------------------------------------------------


@st.composite
def reward_of(draw: Draw, known: list[str]) -> str:
    terms = [
        'exact(extract = "number")',
        'contains("1", ignore_case = true)',
        'regex(r"[0-9]+")',
        f"within({draw(st.integers(1, 99))})",
        'format(pattern = "[0-9]")',
        *(f"{name}()" for name in known),
    ]
    chosen = draw(st.lists(st.sampled_from(terms), min_size=1, max_size=3, unique=True))
    weights = draw(st.lists(st.sampled_from(["", "0.5 * ", "2 * "]), min_size=3, max_size=3))
    return " + ".join(weight + term for weight, term in zip(weights, chosen, strict=False))


@st.composite
def rubric(draw: Draw, name: str) -> str:
    asked = draw(st.booleans())
    items = ["item right weight 3 = exact()", 'item digits = regex(r"[0-9]")']
    if asked:
        items.append('item kind weight 0.5 = ask(critic, "Is the tone kind?")')
    params = "critic: Model" if asked else ""
    body = "\n    ".join(items)
    return f"rubric {name}({params}) {{\n  category all {{\n    {body}\n  }}\n}}"


# --- pipelines --------------------------------------------------------------------------------


@dataclass
class Names:
    """What can be used where the next statement stands. `test` is a data view nobody trains on."""

    models: list[str]
    scored: list[tuple[str, str]] = field(default_factory=list)
    """Scored rollouts, each with the model that drew them."""
    reports: list[str] = field(default_factory=list)

    def inside(self) -> Names:
        return Names(list(self.models), list(self.scored), list(self.reports))


class Writer:
    """Writes the statements of one pipeline; every name is new."""

    def __init__(self, draw: Draw, rewards: list[str], algorithms: list[str]) -> None:
        self.draw, self.rewards, self.algorithms = draw, rewards, algorithms
        self.count = 0
        self.lines: list[str] = []
        self.indent = "  "

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def one(self, options: list[str]) -> str:
        return self.draw(st.sampled_from(options))

    def reward(self, critic: str) -> str:
        return self.one(self.rewards).format(model=critic)

    def write(self, line: str, settings: list[str] = []) -> None:  # noqa: B006
        if settings and len(settings) > 2:
            inner = "".join(f"\n{self.indent}  {item}" for item in settings)
            line += f" {{{inner}\n{self.indent}}}"
        elif settings:
            line += f" {{ {', '.join(settings)} }}"
        self.lines.append(self.indent + line)

    def block(self, head: str, names: Names, moves: list[str], most: int = 2) -> Names:
        inner = names.inside()
        self.write(head + " {")
        self.indent += "  "
        for move in self.draw(st.lists(st.sampled_from(moves), min_size=1, max_size=most)):
            getattr(self, move)(inner)
        self.indent = self.indent[2:]
        self.write("}")
        return inner

    def train(self, names: Names) -> None:
        made, model = self.name("tuned"), self.one(names.models)
        settings = [f"algorithm = {self.one(['sft()', 'dft()'])}", *self.draw(settings_of("train"))]
        if self.draw(st.booleans()):
            rank = self.draw(st.integers(1, Lora.model_fields["rank"].default))
            settings.append(f"adapter = lora(rank = {rank})")
        self.write(f"stage {made} = train({model}, rows.train)", settings)
        names.models.append(made)

    def sample(self, names: Names) -> None:
        drew, scored, model = self.name("tries"), self.name("scored"), self.one(names.models)
        settings = ["max_tokens = 8", f"prompts = {self.draw(st.integers(1, 16))}", "group = 4"]
        self.write(
            f"stage {drew} = sample({model}, rows.train)",
            settings + self.draw(settings_of("sample")),
        )
        how = self.draw(settings_of("score"))
        self.write(f"stage {scored} = score({drew}, {self.reward(model)})", how)
        names.scored.append((scored, model))

    def keep(self, names: Names) -> None:
        if names.scored:
            made = self.name("kept")
            source, model = self.draw(st.sampled_from(names.scored))
            where = self.one(
                ["std(reward per group) > 0", "reward > 0.5 or truncated", "length < 9"]
            )
            self.write(f"stage {made} = keep({source}) {{ where = {where} }}")
            names.scored.append((made, model))

    def learn(self, names: Names) -> None:
        if names.scored:
            made = self.name("learnt")
            source, model = self.draw(st.sampled_from(names.scored))
            settings = [f"algorithm = {self.one([*self.algorithms, 'grpo()'])}"]
            self.write(
                f"stage {made} = train({model}, {source})",
                settings + self.draw(settings_of("train")),
            )
            names.models.append(made)

    def choose(self, names: Names) -> None:
        if not names.scored:
            return
        made, tuned = self.name("picked"), self.name("tuned")
        source, model = self.draw(st.sampled_from(names.scored))
        verb_, algorithm_ = self.draw(st.sampled_from([("best", "sft()"), ("pair", "dpo()")]))
        self.write(f"stage {made} = {verb_}({source})", self.draw(settings_of(verb_)))
        reference = f", reference = {model}" if verb_ == "pair" and self.draw(st.booleans()) else ""
        settings = [f"algorithm = {algorithm_}", *self.draw(settings_of("train"))]
        self.write(f"stage {tuned} = train({model}, {made}{reference})", settings)
        names.models.append(tuned)

    def evaluate(self, names: Names) -> None:
        made, model = self.name("report"), self.one(names.models)
        settings = [
            f"max_tokens = {self.draw(st.integers(1, 16))}",
            *self.draw(settings_of("evaluate")),
        ]
        self.write(
            f"stage {made} = evaluate({model}, rows.test, {self.reward(model)})",
            settings,
        )
        names.reports.append(made)

    def check(self, names: Names) -> None:
        if names.reports:
            one, other = self.one(names.reports), self.one(names.reports)
            tests = [
                f"{one}.mean > 0.1 and not {other}.ci95_high < 0.2",
                f"{one}.mean >= {other}.mean with 95%",
            ]
            self.write(f"check {self.one(tests)}")

    def merge(self, names: Names) -> None:
        chosen = self.draw(st.lists(st.sampled_from(names.models), min_size=2, max_size=4))
        settings = ["weights = [" + ", ".join(["0.5"] * 2) + "]"] if len(chosen) == 2 else []
        made = self.name("merged")
        self.write(f"stage {made} = merge({', '.join(chosen)})", settings)
        names.models.append(made)

    def output(self, names: Names) -> None:
        path = self.name("models/m")
        if self.draw(st.booleans()):
            self.write(f'output {self.one(names.models)} as "{path}"')
        else:
            made = self.name("files")
            self.write(f"stage {made} = export({self.one(names.models)})", [f'path = "{path}"'])

    def sweep(self, names: Names) -> None:
        values = self.one(
            ["[1e-5, 2e-5]", "rates", '["a", "b"]', "[1, 2, 3]", "[true, false]", "[5min]"]
        )
        self.block(
            f"each {self.name('value')} in {values}", names, ["train", "sample", "evaluate", "keep"]
        )

    def branch(self, names: Names) -> None:
        test = self.one(["long", "not long", "long and share > 50%", "seed in [1, 2]"])
        self.block(f"if {test}", names, ["train", "evaluate", "output", "sweep"])
        if self.draw(st.booleans()):
            self.lines[-1] += " else {"
            self.indent += "  "
            self.train(names.inside())
            self.indent = self.indent[2:]
            self.write("}")

    def repeat(self, names: Names) -> None:
        carry, start = self.name("policy"), self.one(names.models)
        drew, scored = self.name("tries"), self.name("scored")
        self.write(f"repeat {self.one(['rounds', '2', '40'])} with {carry} = {start} {{")
        self.indent += "  "
        self.write(
            f"stage {drew} = sample({carry}, rows.train)",
            ["prompts = 4", "group = 4", "max_tokens = 8"],
        )
        self.write(f"stage {scored} = score({drew}, {self.reward(start)})")
        inner = Names([carry], [(scored, carry)])
        if self.draw(st.booleans()):
            self.keep(inner)
        source, _ = inner.scored[-1]
        reference = self.one(["", f", reference = {start}"])
        settings = [
            f"algorithm = {self.one([*self.algorithms, 'grpo()', 'rloo()'])}",
            *self.draw(settings_of("train")),
        ]
        self.write(f"next {carry} = train({carry}, {source}{reference})", settings)
        if self.draw(st.booleans()):
            self.block("every 2", Names([carry]), ["evaluate"], 1)
        if self.draw(st.booleans()):
            self.write(f"until {scored}.mean > 0.9 or {carry}.loss > 100")
        self.indent = self.indent[2:]
        self.write("}")
        names.models.append(carry)


_MOVES = (
    *("train", "sample", "keep", "learn", "choose", "evaluate", "check", "merge", "output"),
    *("sweep", "branch", "repeat"),
)


@st.composite
def pipeline(draw: Draw, name: str, rewards: list[str], algorithms: list[str]) -> str:
    writer = Writer(draw, rewards, algorithms)
    templates = [
        'prompt = "{a} + {b} ="',
        'completion = " {sum}"',
        'answer = "{sum}"',
        "split = 50%",
    ]
    writer.write('data rows = jsonl("rows.jsonl")', templates)
    shape = ["context = 256", f"seed = {draw(st.integers(0, 9))}", *draw(settings_of("fresh"))]
    shape = [item for number, item in enumerate(shape) if number < 2 or not item.startswith("seed")]
    writer.write('model base = fresh("llama", rows)', shape)
    names = Names(["base"])
    for move in draw(st.lists(st.sampled_from(_MOVES), min_size=1, max_size=8)):
        getattr(writer, move)(names)
    writer.output(names)
    body = "\n".join(writer.lines)
    params = (
        "\n  seed: int = 7,\n  long: bool = false,\n  rounds: int = 3 where rounds > 0,\n"
        "  share: fraction = 90% where 0 < share and share <= 1,\n"
        "  rates: [float] = [1e-5, 3e-5],\n"
    )
    return f"## A pipeline that nobody wrote.\npipeline {name}({params}) {{\n{body}\n}}"


@st.composite
def programs(draw: Draw) -> str:
    """A whole file without a mistake."""
    parts: list[str] = []
    known: list[str] = []
    for number in range(draw(st.integers(0, 2))):
        parts.append(f"reward r{number}() = {draw(reward_of(known))}")
        known.append(f"r{number}")
    algorithms = []
    for number in range(draw(st.integers(0, 2))):
        parts.append(draw(algorithm(f"a{number}")))
        algorithms.append(draw(st.sampled_from([f"a{number}()", f"a{number}(beta = 0.1)"])))
    rewards = [f"{name}()" for name in known] + [draw(reward_of(known))]
    if draw(st.booleans()):
        made = draw(rubric("tutor"))
        parts.append(made)
        rewards.append("tutor({model})" if "critic" in made else "tutor()")
    for number in range(draw(st.integers(1, 2))):
        parts.append(draw(pipeline(f"p{number}", rewards, algorithms)))
    body = "\n\n".join(parts) + "\n"
    used = [name for name in _LIBRARY if re.search(rf"\b{name}\(\)", body)]
    use = f'use {", ".join(used)} from "std/algorithms"\n\n' if used else ""
    return f"grape 1\n\n{use}{body}"


_LIBRARY = ("sft", "dft", "dpo", "grpo", "rloo")


# --- the same text, less tidy -----------------------------------------------------------------

_PIECE = re.compile(r'r?"[^"\n]*"|\n|[(),{}=]|[^"\n(),{}=]+')


@st.composite
def sprinkled(draw: Draw, text: str) -> str:
    """The text with comments, blank lines and odd spaces, and the same meaning."""
    chance = draw(st.randoms(use_true_random=False))
    made: list[str] = []
    depth = 0
    for piece in _PIECE.findall(text):
        depth += (piece == "(") - (piece == ")")
        if piece in ("(", ",") and depth and chance.random() < 0.1:
            piece += chance.choice(["\n", "  # inside\n", "\n\n\n"])
        elif piece == "\n" and not made[-1].startswith("##") and chance.random() < 0.2:
            piece = chance.choice(["   # after\n", "\n\n\n", "\n # its own line\n", "\t\n", "#\n"])
        elif piece in ("(", ")", ",") and chance.random() < 0.2:
            piece = f" {piece}  "
        made.append(piece)
    return "".join(made)
