"""The tree of a chat template before it is compiled: its literals get twins, and operators become calls that heed them."""

from __future__ import annotations

from typing import Any

from jinja2 import nodes

from llmcore.generate.chat.marks import Marks

OWN = "%"  # begins the names of filters that no template can call
# Filters whose arguments are compared with texts, or name what messages have.
_LOOKING = (
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "map",
    "attr",
    "groupby",
    "sort",
    "unique",
    "dictsort",
    "sum",
)


class Literals:
    """Rewrites the tree of a template in place: `a ~ b` becomes a call of `concatenate`, operands of comparisons are
    `settled`, and loops over a message's content go through its `parts`. `words`: the literals that it found, but for those
    that the template looks for."""

    def __init__(self, marks: Marks):
        self._marks = marks
        self.words: list[str] = []

    def rewrite(self, node: Any, looked_for: bool = False) -> Any:
        """Return what takes the place of a node. looked_for: it is an operand of a comparison, or the like."""
        if isinstance(node, nodes.TemplateData):
            node.data = self._literal(node.data, False)
            return node
        if isinstance(node, nodes.Const):
            if isinstance(node.value, str):
                node.value = self._literal(node.value, looked_for)
            return node
        if isinstance(node, nodes.Compare):
            return self._comparison(node)
        containers = (nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair)
        for name, value in node.iter_fields():
            look = (
                (looked_for and isinstance(node, containers))
                or (isinstance(node, nodes.Getitem) and name == "arg")
                or (isinstance(node, nodes.Test) and name != "node")
                or (isinstance(node, nodes.Filter) and name != "node" and node.name in _LOOKING)
            )
            if isinstance(value, list):
                value[:] = [self.rewrite(v, look) if isinstance(v, nodes.Node) else v for v in value]
            elif isinstance(value, nodes.Node):
                setattr(node, name, self.rewrite(value, look))
        if isinstance(node, nodes.Concat):
            return own_call("concatenate", node.nodes, node)
        if isinstance(node, nodes.For) and _is_content(node.iter):
            node.iter = own_call("parts", [node.iter], node)
        return node

    def _literal(self, text: str, looked_for: bool) -> str:
        if not looked_for:
            self.words.append(text)
        return self._marks.literal(text, looked_for)

    def _comparison(self, node: nodes.Compare) -> nodes.Compare:
        operands = [node.expr, *(o.expr for o in node.ops)]
        settle = self._marks.specials and not any(map(self._settles_nothing, operands))
        operands = [self.rewrite(operand, True) for operand in operands]
        if settle:
            operands = [x if isinstance(x, nodes.Literal) else own_call("settled", [x], node) for x in operands]
        node.expr = operands[0]
        for operand, value in zip(node.ops, operands[1:], strict=True):
            operand.expr = value
        return node

    def _settles_nothing(self, operand: nodes.Expr) -> bool:
        """Whether an operand is a constant that no piece of a control token can equal, begin, end or be in."""
        if not isinstance(operand, nodes.Const):
            return False
        return not isinstance(operand.value, str) or self._marks.telling.isdisjoint(operand.value)


def own_call(function: str, args: list[Any], at: Any) -> nodes.Filter:
    """Return a call of a method of the environment: as a filter, which costs less than what the sandbox calls."""
    return nodes.Filter(args[0], OWN + function, args[1:], [], None, None, lineno=at.lineno, environment=at.environment)


def _is_content(node: nodes.Node) -> bool:
    """Whether a node is message.content or message['content']."""
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"
