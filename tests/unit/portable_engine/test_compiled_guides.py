"""Compiled guides within a bound of bytes, and refused ones."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from portable_engine.compiled_guides import CompiledGuide, CompiledGuides, guide_key
from portable_engine.failure import masks_too_slow

FAILURE = masks_too_slow(20.0, 5.0)


class Grammar(NamedTuple):
    """A grammar of a size."""

    size_bytes: int

    def matcher(self, end_id):
        """Unused here."""


def make(name, size_bytes=10):
    return CompiledGuide(guide_key("regex", name), Grammar(size_bytes))


def kept(guides, *candidates):
    return [guides.find(guide.key) is guide for guide in candidates]


def test_the_guide_that_was_not_used_for_longest_makes_room():
    guides, (a, b, c) = CompiledGuides(max_bytes=20), map(make, "abc")
    for guide in (a, b):
        guides.add(guide)
    guides.find(a.key)
    guides.add(c)
    assert kept(guides, a, b, c) == [True, False, True]


def test_a_guide_that_is_larger_than_the_bound_is_not_kept():
    guides, large = CompiledGuides(max_bytes=20), make("a", 21)
    guides.add(large)
    assert guides.find(large.key) is None


def test_a_guide_that_is_added_twice_counts_once():
    guides, b = CompiledGuides(max_bytes=20), make("b")
    for guide in (b, make("a"), make("a")):
        guides.add(guide)
    assert kept(guides, b) == [True]


def test_a_refused_guide_is_dropped_and_answers_with_its_failure():
    guides, refused, others = CompiledGuides(max_bytes=20), make("a"), [make("b"), make("c")]
    guides.add(refused)
    guides.refuse(refused, FAILURE)
    for guide in others:
        guides.add(guide)
    assert guides.find(refused.key) == refused.failure == FAILURE
    assert kept(guides, *others) == [True, True]


def test_the_refused_guide_that_was_not_asked_for_longest_is_forgotten():
    guides, (a, b, c) = CompiledGuides(max_bytes=20, max_refused=2), map(make, "abc")
    guides.refuse(a, FAILURE)
    guides.refuse(b, FAILURE)
    guides.find(a.key)
    guides.refuse(c, FAILURE)
    assert [guides.find(guide.key) for guide in (a, b, c)] == [FAILURE, None, FAILURE]


def test_guides_of_the_same_text_and_another_type_differ():
    assert guide_key("regex", "a") != guide_key("lark_grammar", "a")


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 30)), max_size=40))
def test_the_kept_guides_never_take_more_than_the_bound(added):
    guides, names = CompiledGuides(max_bytes=50), "abcdefgh"
    for name, size in added:
        guides.add(make(name, size))
        found = [guides.find(guide_key("regex", other)) for other in names]
        sizes = [guide.grammar.size_bytes for guide in found if isinstance(guide, CompiledGuide)]
        assert sum(sizes) == guides._num_bytes <= 50
