"""The order of an instance's properties."""

from __future__ import annotations

import pytest

from llmstack.guides.instance_order import follows_declaration


@pytest.mark.parametrize(
    ("instance", "in_order"),
    [({"a": 1, "b": 2}, True), ({"b": 2, "a": 1}, False), ({"c": 1}, False), ({"b": {"x": 1}}, True), ({}, True)],
)
def test_an_instance_is_in_order_when_its_properties_are_declared_and_sorted(instance: object, in_order: bool) -> None:
    schema = {"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]}
    assert follows_declaration(schema, instance) is in_order
