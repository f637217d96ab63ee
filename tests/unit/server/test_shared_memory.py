"""The shared memory of a killed server is removed, and no other."""

import mmap
import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmstack.server.shared_memory import record_regions, remove_regions

RECORD = "shared-memory.txt"


@pytest.fixture
def region() -> Iterator[Path]:
    path = Path(f"/dev/shm/triton_python_backend_shm_region_{uuid.uuid4()}")
    path.write_bytes(b"\0" * mmap.PAGESIZE)
    yield path
    path.unlink(missing_ok=True)


def test_regions_that_a_process_has_mapped_are_recorded_and_removed(tmp_path, region):
    with region.open("r+b") as file, closing(mmap.mmap(file.fileno(), 0)):
        record_regions(tmp_path, os.getpid())
    remove_regions(tmp_path)
    assert not region.exists()
    assert not (tmp_path / RECORD).exists()


def test_other_regions_are_kept(tmp_path, region):
    record_regions(tmp_path, os.getpid())
    remove_regions(tmp_path)
    assert region.exists()


def test_the_record_of_an_ended_process_remains_valid(tmp_path, region):
    (tmp_path / RECORD).write_text(str(region))
    record_regions(tmp_path, 2**22 + 1)  # beyond the largest process id
    remove_regions(tmp_path)
    assert not region.exists()


@pytest.mark.parametrize("path", ["{0}/precious", "/dev/shm/triton_python_backend_shm_region_/../../..{0}/precious"])
def test_a_record_can_name_no_other_file(tmp_path, path):
    precious = tmp_path / "precious"
    precious.touch()
    (tmp_path / RECORD).write_text(path.format(tmp_path))
    remove_regions(tmp_path)
    assert precious.exists()


def test_without_a_record_nothing_is_removed(tmp_path):
    remove_regions(tmp_path)
