"""The small ways to break a source file, one at a time, by its syntax tree.

Changed: ``+ - * /`` and ``& |`` swapped, one side of them left out (a term, a factor such as T², an eps), ``**`` left out,
comparisons and conditions negated, small constants doubled (a zero becomes one, an eps zero), booleans flipped, ``.detach()``,
``.float()``, ``.abs()``, ``.square()``, ``.clamp...()``, a minus and a call that stands alone left out, ``max(x, 1)`` by x, mean
and sum swapped, ``no_grad`` and ``autocast`` lifted. Left alone: docstrings, annotations, defaults, what is raised, ``strict=``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, NamedTuple

SWAPPED: dict[type[ast.AST], type[Any]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
DROPPED = {"detach", "float", "abs", "square", "sqrt", "clamp", "clamp_min", "clamp_max"}
REPLACED = {"mean": "sum", "sum": "mean"}
GUARDS = {"no_grad", "autocast"}


class Mutant(NamedTuple):
    """A changed file.

    Attributes:
        line: of the changed place in the original; ``before``, ``after``: its code.
        statement: the whole statement, changed; of a compound one the first line.
        source: the file.
    """

    line: int
    before: str
    after: str
    statement: str
    source: str


class Place(NamedTuple):
    """Where a node hangs: ``parent.field``, or ``parent.field[at]``."""

    parent: ast.AST
    field: str
    at: int | None

    def get(self) -> ast.AST:
        value: Any = getattr(self.parent, self.field)
        node: ast.AST = value if self.at is None else value[self.at]
        return node

    def put(self, node: ast.AST) -> None:
        if self.at is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.at] = node


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a source file, top to bottom; no two are alike."""
    tree = ast.parse(source)
    seen = {ast.unparse(tree)}
    for function in (node for node in list(ast.walk(tree)) if isinstance(node, ast.FunctionDef)):
        body = function.body
        guards = [d for d in function.decorator_list if ast.unparse(d) == "torch.no_grad()"]
        for guard in guards:
            kept = function.decorator_list
            function.decorator_list = [d for d in kept if d is not guard]
            header = f"def {function.name}"
            yield Mutant(guard.lineno, "@torch.no_grad()", "", header, ast.unparse(tree))
            function.decorator_list = kept
        for i, statement in enumerate(body):
            for place, above in places(statement, Place(function, "body", i), statement):
                node = place.get()
                for new in variants(node):
                    place.put(new if hasattr(new, "lineno") else ast.copy_location(new, node))
                    text = ast.unparse(tree)
                    if text not in seen:
                        seen.add(text)
                        changed = new if node is above and isinstance(new, ast.stmt) else above
                        before, after = (ast.unparse(x).splitlines()[0] for x in (node, new))
                        first = (
                            f"pass  # {before}" if isinstance(new, ast.Pass) else ast.unparse(changed).splitlines()[0]
                        )
                        yield Mutant(getattr(node, "lineno", statement.lineno), before, after, first, text)
                    place.put(node)


def places(node: ast.AST, place: Place, statement: ast.AST) -> Iterator[tuple[Place, ast.AST]]:
    """Every place that may be changed from ``node`` down, with the statement that it stands in."""
    if isinstance(node, ast.Raise | ast.Assert | ast.FunctionDef | ast.JoinedStr | ast.AnnAssign):
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            yield from places(node.value, Place(node, "value", None), node)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    yield place, statement
    for field, value in ast.iter_fields(node):
        for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.expr_context | ast.operator | ast.cmpop):
                inside = child if isinstance(child, ast.stmt) else statement
                yield from places(child, Place(node, field, i), inside)


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in SWAPPED:
            yield ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right)
            yield node.left
            yield ast.UnaryOp(ast.USub(), node.right) if isinstance(node.op, ast.Sub) else node.right
        elif isinstance(node.op, ast.Pow):
            yield node.left
    elif isinstance(node, ast.AugAssign) and type(node.op) in SWAPPED:
        yield ast.AugAssign(node.target, SWAPPED[type(node.op)](), node.value)
        yield ast.Pass()
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(SWAPPED[type(node.op)](), node.values)
        for i in range(len(node.values)):
            rest = [v for j, v in enumerate(node.values) if j != i]
            yield ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [SWAPPED[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from constants(node.value)
    elif isinstance(node, ast.Call):
        yield from calls(node)
    elif isinstance(node, ast.If | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.BoolOp):
        test = node.test.operand if isinstance(node.test, ast.UnaryOp) else ast.UnaryOp(ast.Not(), node.test)
        kind = type(node)
        yield kind(test, node.body, node.orelse)  # type: ignore[arg-type]
    elif isinstance(node, ast.Expr):
        yield ast.Pass()
    elif isinstance(node, ast.With):
        for item in node.items:
            if called(item.context_expr) in GUARDS:
                others = [i for i in node.items if i is not item]
                yield ast.With(others, node.body) if others else ast.If(ast.Constant(True), node.body, [])


def constants(value: object) -> Iterator[ast.AST]:
    """Other constants than this one."""
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float) and value == 0:
        yield ast.Constant(type(value)(1))
    elif isinstance(value, float) and value < 1e-3:
        yield ast.Constant(0.0)
    elif isinstance(value, int | float) and value <= 1000:
        yield ast.Constant(value * 2)


def calls(node: ast.Call) -> Iterator[ast.AST]:
    """Calls left out, and means for sums."""
    name = called(node)
    if isinstance(node.func, ast.Attribute) and name in DROPPED:
        inner = node.args[0] if ast.unparse(node.func.value) == "torch" and node.args else node.func.value
        yield inner
    elif isinstance(node.func, ast.Attribute) and name in REPLACED:
        yield ast.Call(ast.Attribute(node.func.value, REPLACED[name], ast.Load()), node.args, node.keywords)
    elif isinstance(node.func, ast.Name) and name in ("max", "min") and len(node.args) == 2:
        yield from node.args


def called(node: ast.AST) -> str:
    """The last name of what is called: ``no_grad`` of ``torch.no_grad()``; else nothing."""
    if not isinstance(node, ast.Call):
        return ""
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
