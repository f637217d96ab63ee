"""Guides from a client's EBNF grammar, checked for everything that would hang or crash the engine."""

from __future__ import annotations

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.ebnf_reader import read_ebnf
from llm_policy.guidance.grammar.grammar import Chars, Choice, Expression, Grammar, Repeat, Rule, Sequence, references
from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.guidance.plan.guide_plan import GuidePlan, decode_text, planned
from llm_policy.guidance.plan.regular_parts import with_automata
from llm_policy.guidance.regex.search import BROAD
from llm_policy.release.guide_limits import GuideLimits


def plan_ebnf(text: str | bytes, limits: GuideLimits, counting: Counting = Counting.BOUNDED) -> GuidePlan:
    """The guide for an EBNF grammar with a rule `root`.

    Its counts are never relaxed, because nothing validates the finished text.

    Raises:
        InvalidRequest: `schema_invalid` or `schema_too_complex`.
    """
    source = decode_text(text)
    check_limit("grammar size in bytes", len(source.encode("utf-8")), limits.max_grammar_bytes)
    grammar = read_ebnf(source, limits)
    _check_references(grammar)
    if not grammar.prune():
        raise invalid("the grammar's root can never be completed")
    if _left_recursive(grammar):
        raise invalid("the grammar has a rule that starts with itself")
    check_limit("positions of the grammar that accept any character", _num_broad(grammar), limits.max_broad_states)
    _rename(grammar)
    if counting not in (Counting.EXACT, Counting.NONE):
        grammar = with_automata(grammar, limits, counting)
    return planned(grammar, source, limits)


def _check_references(grammar: Grammar) -> None:
    if grammar.root not in grammar.rules:
        raise invalid("the grammar has no rule root")
    for expression in grammar.rules.values():
        if any(name not in grammar.rules for name in references(expression)):
            raise invalid("the grammar uses a rule that it does not define")


def _nullable_rules(grammar: Grammar) -> set[str]:
    """Rules that match the empty text (a least fixed point)."""
    nullable: set[str] = set()
    has_grown = True
    while has_grown:
        found = {name for name, e in grammar.rules.items() if name not in nullable and _is_nullable(e, nullable)}
        nullable |= found
        has_grown = bool(found)
    return nullable


def _is_nullable(expression: Expression, nullable: set[str]) -> bool:
    if isinstance(expression, Rule):
        return expression.name in nullable
    if isinstance(expression, Sequence):
        return all(_is_nullable(part, nullable) for part in expression.parts)
    if isinstance(expression, Choice):
        return any(_is_nullable(option, nullable) for option in expression.options)
    return isinstance(expression, Repeat) and (expression.min_count == 0 or _is_nullable(expression.part, nullable))


def _leftmost(expression: Expression, nullable: set[str]) -> set[str]:
    """Rules with which a match may start."""
    if isinstance(expression, Rule):
        return {expression.name}
    if isinstance(expression, Repeat):
        return _leftmost(expression.part, nullable)
    if isinstance(expression, Choice):
        return set().union(*(_leftmost(option, nullable) for option in expression.options))
    found: set[str] = set()
    for part in expression.parts if isinstance(expression, Sequence) else ():
        found |= _leftmost(part, nullable)
        if not _is_nullable(part, nullable):
            break
    return found


def _left_recursive(grammar: Grammar) -> bool:
    """Whether some rule may start with itself. Finds the cycle without recursion, by removing rules without one."""
    nullable = _nullable_rules(grammar)
    leftmost = {name: _leftmost(expression, nullable) for name, expression in grammar.rules.items()}
    users: dict[str, set[str]] = {name: set() for name in leftmost}
    for name, firsts in leftmost.items():
        for first in firsts:
            users[first].add(name)
    pending = [name for name, firsts in leftmost.items() if not firsts]
    while pending:
        done = pending.pop()
        del leftmost[done]
        for user in users[done]:
            leftmost[user].discard(done)
            if not leftmost[user]:
                pending.append(user)
    return bool(leftmost)


def _num_broad(grammar: Grammar) -> int:
    count = 0
    pending = list(grammar.rules.values())
    while pending:
        item = pending.pop()
        if isinstance(item, Chars):
            count += item.codes.size() > BROAD
        elif isinstance(item, Sequence):
            pending.extend(item.parts)
        elif isinstance(item, Choice):
            pending.extend(item.options)
        elif isinstance(item, Repeat):
            pending.append(item.part)
    return count


def _rename(grammar: Grammar) -> None:
    """Rename all rules except the root, so that none conflicts with rules that are added later."""
    names = {name: name if name == grammar.root else f"r{i}" for i, name in enumerate(grammar.rules)}
    grammar.rules = {names[name]: _renamed(expression, names) for name, expression in grammar.rules.items()}


def _renamed(expression: Expression, names: dict[str, str]) -> Expression:
    if isinstance(expression, Rule):
        return Rule(names[expression.name])
    if isinstance(expression, Sequence):
        return Sequence(tuple(_renamed(part, names) for part in expression.parts))
    if isinstance(expression, Choice):
        return Choice(tuple(_renamed(option, names) for option in expression.options))
    if isinstance(expression, Repeat):
        return Repeat(_renamed(expression.part, names), expression.min_count, expression.max_count)
    return expression
