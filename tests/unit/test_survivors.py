"""A property test that drops nearly all of its cases fails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.survivors import keep_if, keeps_at_least


@pytest.mark.parametrize(("limit", "is_enough"), [(90, True), (3, False)])
def test_too_few_kept_cases_fail_a_property_test(limit, is_enough):
    @keeps_at_least(0.2)
    @given(st.integers(0, 99))
    def check(number):
        keep_if(number < limit)
        assert number < limit

    if is_enough:
        check()
    else:
        with pytest.raises(AssertionError, match=r"of \d+ cases \(\S+%\) were not dropped"):
            check()
