"""An algorithm as a person reads it: its lines with levels, what it needs, how it couples."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from grape.compiler.formula.infer import line_levels
from grape.compiler.formula.ir import Formula, Scalar
from grape.compiler.formula.levels import Level
from grape.compiler.formula.mathematics import Writer
from grape.compiler.formula.quantities import QUANTITIES, SAMPLED, TRAINED
from grape.dsl import ast

_FORWARD, _BACKWARD = 1, 2
"""Cost of a pass of the model over a token; a backward pass costs twice a forward one."""
_COUPLING = {
    Level.TOKEN: "token: any two sequences can be in different micro-batches",
    Level.SEQUENCE: "sequence: a completion stays whole",
    Level.PAIR: "pair: chosen and rejected stay together",
    Level.GROUP: "group: the completions of a prompt stay together",
    Level.BATCH: "batch: a first pass without gradient collects the values",
}


def explain(declaration: ast.AlgorithmDecl, formula: Formula, *, latex: bool = False) -> str:
    """The document that `grape explain NAME` prints; with `latex` its formulas alone, as LaTeX."""
    params = dict(formula.params)
    writer = Writer(params, latex)
    lines = [_line(writer, line) for line in declaration.body]
    if latex:
        rows = " \\\\\n".join(f"  {head} &{text}" for head, text in lines)
        return f"\\begin{{align*}}\n{rows}\n\\end{{align*}}"
    levels = line_levels(declaration, params)
    listed = ", ".join(f"{name} = {_value(value)}" for name, value in formula.params)
    head = f"{formula.name}({listed}) on {formula.on}"
    shown = [*textwrap.wrap(head, 100, subsequent_indent="  ", break_long_words=False), ""]
    if declaration.doc:
        shown += [declaration.doc, ""]
    shown += [
        f"  {level or '':<8}  {head}{text}"
        for (head, text), level in zip(lines, levels, strict=True)
    ]
    return "\n".join([*shown, "", *_facts(formula)])


def _value(value: Scalar) -> str:
    """A parameter's value as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def lines_of(declaration: ast.AlgorithmDecl) -> list[str]:
    """Every line of an algorithm as mathematics, its parameters left as names."""
    return [head + text for head, text in (_line(Writer({}), line) for line in declaration.body)]


def table(algorithms: Iterable[tuple[ast.AlgorithmDecl, Formula]]) -> str:
    """The library as a Markdown document: name, batch, what it reads, first sentence."""
    rows = [
        f"| `{formula.name}` | {formula.on} | {_reads(formula)} | {_first(declaration.doc or '')} |"
        for declaration, formula in algorithms
    ]
    head = [
        "# The library of algorithms",
        "",
        "`grape explain algorithms` prints this page, and `grape explain NAME` one algorithm. "
        "Besides `logp`, `mask` and `group`, an algorithm reads with its default parameters:",
        "",
        "| algorithm | on | reads | |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows])


def _reads(formula: Formula) -> str:
    names = sorted((formula.needs | formula.index_sets) - {"logp"})
    return ", ".join(f"`{name}`" for name in names)


def _first(doc: str) -> str:
    """The first sentence; a point inside brackets or after an initial ends none."""
    text = " ".join(doc.split())
    outside = re.sub(r"\([^)]*\)", lambda match: "·" * len(match[0]), text)
    end = re.search(r"(?<!Dr)\. |$", outside)
    assert end is not None
    return text[: end.start()].rstrip(".") + "."


def _facts(formula: Formula) -> list[str]:
    passes, cost = _passes(formula)
    apart = "sampling and the solver apart" if formula.constraints else "sampling apart"
    facts = [
        f"needs     {', '.join(sorted(formula.needs | formula.index_sets))}",
        *_listed("forwards", passes),
        f"coupling  {_COUPLING[formula.coupling]}",
        f"cost      {cost:.2f} times supervised fine-tuning per token, {apart}",
    ]
    if formula.memory:
        kept = ", ".join(f"{name} (from {first:g})" for name, first, _ in formula.memory)
        facts.append(f"memory    {kept}")
    if formula.needs & {"value", "old_value"}:
        facts.append("head      a value head on the policy, trained with it")
    if "score" in formula.needs:
        facts.append("head      a score head, trained with the model: it becomes a reward model")
    if formula.constraints:
        facts.append("solver    a constrained step: `natural_gradient` or `penalty`")
    return facts + _supplied(formula)


def _supplied(formula: Formula) -> list[str]:
    """What a sampler or a scorer has to bring, and what to write for it."""
    lines = []
    for name in sorted(formula.needs | formula.index_sets):
        if name in TRAINED or not (name in QUANTITIES or name in SAMPLED):
            continue
        meaning = QUANTITIES[name].meaning if name in QUANTITIES else f"the level `{name}`"
        lines.append(f"supplied  `{name}`: {meaning}")
        if name in SAMPLED:
            lines.append(f"          {SAMPLED[name]}")
    return lines


def _listed(head: str, items: list[str]) -> list[str]:
    """One item on each line, the first beside the heading."""
    return [f"{head if number == 0 else '':<8}  {item}" for number, item in enumerate(items)]


def _passes(formula: Formula) -> tuple[list[str], float]:
    """What runs forward, and the cost of a token relative to a forward and a backward pass."""
    needs, cost = formula.needs, _FORWARD + _BACKWARD
    passes = ["the policy, with gradient"]
    for prefix, text in (
        ("old", "the policy before the update (none where each batch is used once)"),
        ("ref", "the reference"),
        ("teacher", "the teacher, counted as large as the policy"),
    ):
        if needs & {f"{prefix}_logp", f"{prefix}_logp_all"}:
            passes.append(text)
            cost += 0 if prefix == "old" else _FORWARD
    if "mismatched" in needs:
        passes.append("policy and reference on each completion after another's prompt")
        cost += 2 * _FORWARD
    if formula.coupling is Level.BATCH:
        passes.append("the policy, without gradient, for the values of the whole batch")
        cost += _FORWARD
    return passes, cost / (_FORWARD + _BACKWARD)


def _line(writer: Writer, line: ast.FormulaStatement) -> tuple[str, str]:
    """The name or keyword of a line, and the rest of it."""
    match line:
        case ast.Let():
            return f"{writer.name(line.name.name)} ", f"= {writer.write(line.value)}"
        case ast.State():
            first, following = writer.write(line.initial), writer.write(line.following)
            arrow = r"\;\mapsto\;" if writer.latex else "↦"
            return f"{writer.name(line.name.name)} ", f"= {first} {arrow} {following}"
        case ast.Log():
            head = r"\text{log } " if writer.latex else "log "
            return f"{head}{writer.name(line.name.name)} ", f"= {writer.write(line.value)}"
        case ast.Objective():
            head = rf"\{line.goal[:3]} \;" if writer.latex else f"{line.goal} "
            return head, writer.write(line.value)
        case ast.SubjectTo():
            head = r"\text{s.t.} \;" if writer.latex else "subject to "
            return head, writer.write(line.test)
