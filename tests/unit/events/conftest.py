import pytest

from tests.outbox import Outbox


@pytest.fixture
def outbox(tmp_path):
    opened = Outbox(tmp_path)
    yield opened
    opened.connection.close()
