"""Finds the rules of a grammar that are regular, and writes them without recursion.

A rule is regular if it refers only to regular rules, or if recursion happens only at the end of its options
(`rest ::= plain rest | tail`). Such a component of rules is a system of linear equations over regular expressions,
which elimination solves (Arden's lemma: the least solution of `x = a x | b` is `a* b`). Elimination can grow
quadratically or worse, so it is bounded; a component over the bound counts as not regular.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from llm_policy.guidance.grammar.components import components
from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    Chars,
    Choice,
    Expression,
    Grammar,
    Literal,
    Repeat,
    Rule,
    Sequence,
    choice,
    references,
    repeat,
    sequence,
)

MAX_EQUATIONS = 512
"""Rules of one recursive component that elimination takes."""
MAX_PRODUCTS = 10_000
"""Products of coefficients that the elimination of one component may form."""

Row = dict[str | None, Expression]
"""Coefficient of each rule of the component; of None: what follows no rule."""
Shorten = Callable[[Expression], Expression]
"""Gives a large expression a rule of its own, so that it can occur many times."""


class _NotLinear(Exception):
    """A rule refers to its component elsewhere than at its end, or elimination grows over its bound."""


def regular_rules(grammar: Grammar) -> dict[str, Expression]:
    """The regular rules, without recursion, each after those to which it refers; may contain further rules."""
    edges = {name: list(dict.fromkeys(references(expression))) for name, expression in grammar.rules.items()}
    found: dict[str, Expression] = {}
    for component in components(edges):
        members = set(component)
        outside = (name for member in component for name in edges[member] if name not in members)
        if not all(name in found for name in outside):
            continue
        if len(component) == 1 and component[0] not in edges[component[0]]:
            found[component[0]] = factored(grammar.rules[component[0]])
            continue
        try:
            found.update(_solved({name: grammar.rules[name] for name in component}))
        except _NotLinear:
            continue
    return found


def without_tail_recursion(name: str, expression: Expression) -> Expression:
    """`x ::= a x | b` as `a* b`, also if `a` refers to `x`; unchanged if `x` ends no option."""
    row: Row = {}
    _split(expression, {name}, row, lambda head: head, heads_may_refer=True)
    if name not in row:
        return expression
    return sequence(repeat(row[name], 0, None), row.get(None, Choice(())))


def factored(expression: Expression) -> Expression:
    """The expression with a common last rule taken out of the options of a choice: `a x | b x` as `(a | b) x`."""
    if not isinstance(expression, Choice):
        return expression
    heads: dict[Expression | None, list[Expression]] = {}
    for option in expression.options:
        is_headed = isinstance(option, Sequence) and option.parts and isinstance(option.parts[-1], Rule)
        last = option.parts[-1] if isinstance(option, Sequence) and is_headed else None
        head = sequence(*option.parts[:-1]) if isinstance(option, Sequence) and is_headed else option
        heads.setdefault(last, []).append(head)
    return choice(*(sequence(choice(*items), EMPTY if last is None else last) for last, items in heads.items()))


def _solved(rules: dict[str, Expression]) -> dict[str, Expression]:
    if len(rules) > MAX_EQUATIONS:
        raise _NotLinear
    return _Equations(rules).solution()


def _is_small(expression: Expression) -> bool:
    return isinstance(expression, Literal | Chars | Rule) or expression == EMPTY


def _refers(expression: Expression, members: Container[str]) -> bool:
    return any(name in members for name in references(expression))


def _add(row: Row, target: str | None, coefficient: Expression) -> None:
    row[target] = choice(row[target], coefficient) if target in row else coefficient


def _split(
    expression: Expression, members: Container[str], row: Row, shorten: Shorten, *, heads_may_refer: bool = False
) -> None:
    """Add the expression to the row.

    Raises:
        _NotLinear: a member occurs elsewhere than at the end, unless `heads_may_refer`.
    """
    if isinstance(expression, Rule) and expression.name in members:
        _add(row, expression.name, EMPTY)
    elif not _refers(expression, members):
        _add(row, None, expression)
    elif isinstance(expression, Choice):
        for option in expression.options:
            _split(option, members, row, shorten, heads_may_refer=heads_may_refer)
    elif isinstance(expression, Repeat) and (expression.min_count, expression.max_count) == (0, 1):
        _add(row, None, EMPTY)
        _split(expression.part, members, row, shorten, heads_may_refer=heads_may_refer)
    elif isinstance(expression, Sequence):
        _split_sequence(expression, members, row, shorten, heads_may_refer=heads_may_refer)
    elif heads_may_refer:
        _add(row, None, expression)
    else:
        raise _NotLinear


def _split_sequence(
    expression: Sequence, members: Container[str], row: Row, shorten: Shorten, *, heads_may_refer: bool
) -> None:
    head = sequence(*expression.parts[:-1])
    if not heads_may_refer and _refers(head, members):
        raise _NotLinear
    ends: Row = {}
    _split(expression.parts[-1], members, ends, shorten, heads_may_refer=heads_may_refer)
    head = shorten(head) if len(ends) > 1 else head
    for target, end in ends.items():
        _add(row, target, sequence(head, end))


class _Equations:
    """The equations of one component."""

    def __init__(self, rules: dict[str, Expression]) -> None:
        self._shared: dict[Expression, str] = {}
        self._prefix = next(iter(rules))
        self._num_products = 0
        self._rows: dict[str, Row] = {name: {} for name in rules}
        for name, expression in rules.items():
            _split(expression, rules, self._rows[name], self._shorten)

    def solution(self) -> dict[str, Expression]:
        """Every rule in terms of those eliminated after it; those first that need the fewest products."""
        eliminated: dict[str, Expression] = {}
        while self._rows:
            sources = self._num_sources()
            name = min(self._rows, key=lambda n: sources.get(n, 0) * len(self._rows[n]))
            eliminated[name] = self._eliminate(name)
        shared = {name: expression for expression, name in self._shared.items()}
        return {**shared, **dict(reversed(eliminated.items()))}

    def _shorten(self, expression: Expression) -> Expression:
        if _is_small(expression):
            return expression
        return Rule(self._shared.setdefault(expression, f"{self._prefix}+{len(self._shared)}"))

    def _num_sources(self) -> dict[str | None, int]:
        counts: dict[str | None, int] = {}
        for row in self._rows.values():
            for target in row:
                counts[target] = counts.get(target, 0) + 1
        return counts

    def _eliminate(self, name: str) -> Expression:
        row = self._rows.pop(name)
        body = row.pop(name, EMPTY)
        loop = repeat(body, 0, None)
        sources = [other for other in self._rows.values() if name in other]
        if len(sources) > 1 or len(row) > 1:
            loop = self._shorten(loop)
        if len(sources) > 1:
            row = {target: self._shorten(coefficient) for target, coefficient in row.items()}
        for source in sources:
            self._substitute(source, name, loop, row)
        rest = choice(*_terms(row.items()))
        return self._joined_runs(body, rest) or sequence(loop, rest)

    def _joined_runs(self, body: Expression, rest: Expression) -> Expression | None:
        """`(a* b)* a* c` as `(a | b)* c`, whose masks llguidance computes faster; None for other forms."""
        if not (isinstance(body, Sequence) and isinstance(rest, Sequence) and body.parts and rest.parts):
            return None
        first = body.parts[0]
        run = next((e for e, name in self._shared.items() if first == Rule(name)), first)
        if first != rest.parts[0] or not isinstance(run, Repeat) or (run.min_count, run.max_count) != (0, None):
            return None
        return sequence(repeat(choice(run.part, sequence(*body.parts[1:])), 0, None), *rest.parts[1:])

    def _substitute(self, source: Row, name: str, loop: Expression, row: Row) -> None:
        head = sequence(source.pop(name), loop)
        head = self._shorten(head) if len(row) > 1 else head
        for target, coefficient in row.items():
            _add(source, target, sequence(head, coefficient))
        self._num_products += len(row)
        if self._num_products > MAX_PRODUCTS:
            raise _NotLinear


def _terms(items: Iterable[tuple[str | None, Expression]]) -> list[Expression]:
    return [coefficient if target is None else sequence(coefficient, Rule(target)) for target, coefficient in items]
