"""The checks of an image's configuration, without Docker."""

import pytest

pytest.importorskip("docker.errors")

from llmstack.image.image_checks import check_healthcheck, check_labels, check_user


@pytest.mark.parametrize("user", ["", "root", "0", "llmstack"])
def test_a_user_that_may_be_root_fails(user):
    assert not check_user({"User": user}).ok
    assert check_user({"User": "10001"}).ok


def test_missing_labels_and_health_checks_fail():
    assert not check_labels({"Labels": None}).ok
    assert not check_healthcheck({"Healthcheck": {"Test": ["CMD", "true"]}}).ok
