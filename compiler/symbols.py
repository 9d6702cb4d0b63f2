"""Which name means which declaration: every place of a file where a symbol is defined or used.

In comes a loaded module, out come occurrences by place. It follows the same scopes as the checker
(parameters, then the region, then the file and its imports), needs no file to be right, and says
nothing about names that it cannot resolve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

from grape.compiler.modules import Module
from grape.dsl import ast
from grape.dsl.lsp.analyser import Kind, Occurrence, Symbol

Scope = Mapping[str, Symbol]
Named = ast.RewardDecl | ast.RubricDecl | ast.AlgorithmDecl | ast.PipelineDecl

_KINDS: dict[type[Named], Kind] = {
    ast.RewardDecl: "reward",
    ast.RubricDecl: "rubric",
    ast.AlgorithmDecl: "algorithm",
    ast.PipelineDecl: "pipeline",
}


def occurrences_of(module: Module) -> list[Occurrence]:
    """Every occurrence in the module's own file, by place."""
    walk = _Walk(module)
    for declaration in module.file.declarations:
        walk.declaration(declaration)
    return sorted(walk.found, key=lambda found: found.span.start)


def symbol_of(declaration: Named) -> Symbol:
    """The symbol of a declaration."""
    text = declaration.span.text.split("\n")[0].rstrip(" {=")
    if isinstance(declaration, ast.RewardDecl | ast.RubricDecl | ast.PipelineDecl):
        text = f"{_KINDS[type(declaration)]} {declaration.name.name}({signature(declaration)})"
    if isinstance(declaration, ast.AlgorithmDecl):
        name, on = declaration.name.name, declaration.on.name
        text = f"algorithm {name}({signature(declaration)}) on {on}"
    kind = _KINDS[type(declaration)]
    return Symbol(declaration.name.name, kind, declaration.name.span, text, declaration.doc)


def signature(declaration: Named) -> str:
    """The parameters of a declaration as they are written."""
    return ", ".join(param.span.text for param in declaration.params)


def parameter_symbol(param: ast.Param) -> Symbol:
    """The symbol of a parameter."""
    return Symbol(param.name.name, "parameter", param.name.span, param.span.text, param.doc)


class _Walk:
    """Collects occurrences; `file` is the scope of the whole file."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.found: list[Occurrence] = []
        self.declared: dict[str, Named] = {}
        for name, imported in module.imported.items():
            if imported is not None:
                self.declared[name] = imported[0]
        for name, declaration in module.declared.items():
            self.declared.setdefault(name, declaration)
        self.file = {name: symbol_of(item) for name, item in self.declared.items()}

    def _mark(self, ident: ast.Ident | ast.Name, symbol: Symbol) -> None:
        self.found.append(Occurrence(ident.span, symbol))

    def _define(self, ident: ast.Ident, kind: Kind, text: str, doc: str | None = None) -> Symbol:
        symbol = Symbol(ident.name, kind, ident.span, text, doc)
        self._mark(ident, symbol)
        return symbol

    def declaration(self, declaration: ast.Declaration) -> None:
        match declaration:
            case ast.Use():
                for ident in declaration.names:
                    if ident.name in self.file and ident.name in self.module.imported:
                        self._mark(ident, self.file[ident.name])
            case ast.RewardDecl():
                scope = self._head(declaration)
                self._expr(declaration.value, scope)
            case ast.RubricDecl():
                self._rubric(declaration)
            case ast.AlgorithmDecl():
                self._algorithm(declaration)
            case ast.PipelineDecl():
                scope = self._head(declaration)
                self._region(declaration.body, {}, scope)
            case _:
                assert_never(declaration)

    def _head(self, declaration: Named) -> dict[str, Symbol]:
        """Marks name and parameters; gives the scope of the parameters."""
        self._mark(declaration.name, symbol_of(declaration))
        scope: dict[str, Symbol] = {}
        for param in declaration.params:
            symbol = parameter_symbol(param)
            self._mark(param.name, symbol)
            self._maybe(param.default, scope)
            scope[symbol.name] = symbol
            self._maybe(param.where, scope)
        return scope

    def _rubric(self, declaration: ast.RubricDecl) -> None:
        scope = self._head(declaration)
        for category in declaration.categories:
            text = f"category {category.name.name}"
            self._define(category.name, "category", text, category.doc)
            self._maybe(category.when, scope)
            for item in category.items:
                self._define(item.name, "item", f"item {item.name.name}", item.doc)
                self._maybe(item.weight, scope)
                self._expr(item.value, scope)

    def _algorithm(self, declaration: ast.AlgorithmDecl) -> None:
        scope = self._head(declaration)
        for line in declaration.body:
            if isinstance(line, ast.State):
                text = " ".join(line.span.text.split())
                scope[line.name.name] = self._define(line.name, "variable", text)
        following: list[ast.Expr] = []
        for line in declaration.body:
            match line:
                case ast.State():
                    self._expr(line.initial, scope)
                    following.append(line.following)
                case ast.Let():
                    self._expr(line.value, scope)
                    text = " ".join(line.span.text.split())
                    scope[line.name.name] = self._define(line.name, "variable", text)
                case ast.Log():
                    self._expr(line.value, scope)
                    self._define(line.name, "log", " ".join(line.span.text.split()))
                case ast.Objective():
                    self._expr(line.value, scope)
                case ast.SubjectTo():
                    self._expr(line.test, scope)
        for expr in following:  # what comes next may read every `let`
            self._expr(expr, scope)

    # --- pipelines ----------------------------------------------------------------------------

    def _region(
        self, body: Sequence[ast.Statement], outer: Mapping[str, Symbol], params: Scope
    ) -> None:
        """The statements of a region: nodes see each other, whatever their order."""
        nodes = {**outer, **self._nodes(body)}
        for statement in body:
            self._statement(statement, nodes, params)

    def _nodes(self, body: Iterable[ast.Statement]) -> dict[str, Symbol]:
        found: dict[str, Symbol] = {}
        for statement in body:
            match statement:
                case ast.Node(keyword, name) if keyword != "next":
                    text = f"{keyword} {name.name} = {_head_text(statement.call)}"
                    made = Symbol(name.name, keyword, name.span, text, statement.doc)
                    found.setdefault(name.name, made)  # an `else` may define it too
                case ast.Repeat(name=name):
                    text = f"repeat … with {name.name}"
                    found[name.name] = Symbol(name.name, "model", name.span, text, statement.doc)
                case ast.Each() | ast.Every() | ast.If():
                    inner = [line for block in ast.bodies(statement) for line in block]
                    found = {**self._nodes(inner), **found}
        return found

    def _statement(self, statement: ast.Statement, nodes: Scope, params: Scope) -> None:
        both = {**self.file, **params, **nodes}
        match statement:
            case ast.Node():
                self._node(statement, nodes, params)
            case ast.Repeat():
                self._expr(statement.count, params)
                self._expr(statement.start, both)
                for setting in statement.settings:
                    self._expr(setting.value, params)
                self._mark(statement.name, nodes[statement.name.name])
                self._region(statement.body, nodes, params)
            case ast.Each():
                text = f"each {statement.name.name}"
                inner = {
                    **params,
                    statement.name.name: self._define(statement.name, "parameter", text),
                }
                self._expr(statement.values, params)
                for each in statement.body:
                    self._statement(each, nodes, inner)
            case ast.Every():
                self._expr(statement.count, params)
                for each in statement.body:
                    self._statement(each, nodes, params)
            case ast.If():
                self._expr(statement.test, params)
                for each in (*statement.yes, *statement.no):
                    self._statement(each, nodes, params)
            case ast.Check():
                self._expr(statement.test, both)
                self._maybe(statement.confidence, params)
            case ast.Until():
                self._expr(statement.test, both)
            case ast.Output():
                self._expr(statement.value, both)

    def _node(self, node: ast.Node, nodes: Scope, params: Scope) -> None:
        if node.name.name in nodes:
            self._mark(node.name, nodes[node.name.name])
        if isinstance(node.call, ast.Call):
            for arg in node.call.args:
                self._expr(arg.value, {**self.file, **params, **nodes})
        else:
            self._expr(node.call, {**params, **nodes})
        for setting in node.settings:
            self._expr(setting.value, params)

    # --- expressions --------------------------------------------------------------------------

    def _maybe(self, expr: ast.Expr | None, scope: Scope) -> None:
        if expr is not None:
            self._expr(expr, scope)

    def _expr(self, expr: ast.Expr, scope: Scope) -> None:
        match expr:
            case ast.Name(name):
                if name in scope:
                    self._mark(expr, scope[name])
            case ast.Call(ast.Name(name)):
                self._call(expr, name, scope)
            case _:
                for inner in ast.inside(expr):
                    self._expr(inner, scope)

    def _call(self, call: ast.Call, name: str, scope: Scope) -> None:
        assert isinstance(call.function, ast.Name)
        called = self.declared.get(name)
        if called is not None:
            self._mark(call.function, self.file[name])
        params = {param.name.name: param for param in called.params} if called else {}
        for arg in call.args:
            if arg.name is not None and arg.name.name in params:
                self._mark(arg.name, parameter_symbol(params[arg.name.name]))
            self._expr(arg.value, scope)


def _head_text(expr: ast.Expr) -> str:
    return " ".join(expr.span.text.split())
