"""A release with random weights, and its tokenizer."""

import pytest
from tokenizers import Tokenizer

from embedded_model.release.builder import build_release


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    return build_release(tmp_path_factory.mktemp("embedded"), seed=0)


@pytest.fixture(scope="session")
def tokenizer(release):
    return Tokenizer.from_file(str(release.tokenizer_dir / "tokenizer.json"))
