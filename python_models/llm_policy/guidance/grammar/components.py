"""Strongly connected components of the references between rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def components(edges: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """The components, each after those that it refers to (Tarjan's algorithm, without recursion)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for start in edges:
        path: list[tuple[str, Iterator[str]]] = []
        if start not in index:
            path.append(_entered(start, edges, index, lowest, stack, on_stack))
        while path:
            name, targets = path[-1]
            target = next(targets, None)
            if target is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[name])
                if lowest[name] == index[name]:
                    yield _popped(name, stack, on_stack)
            elif target not in index:
                path.append(_entered(target, edges, index, lowest, stack, on_stack))
            elif target in on_stack:
                lowest[name] = min(lowest[name], index[target])


def _entered(
    name: str,
    edges: Mapping[str, Sequence[str]],
    index: dict[str, int],
    lowest: dict[str, int],
    stack: list[str],
    on_stack: set[str],
) -> tuple[str, Iterator[str]]:
    index[name] = lowest[name] = len(index)
    stack.append(name)
    on_stack.add(name)
    return name, iter(edges[name])


def _popped(name: str, stack: list[str], on_stack: set[str]) -> list[str]:
    component = [stack.pop()]
    while component[-1] != name:
        component.append(stack.pop())
    component.reverse()
    on_stack.difference_update(component)
    return component
