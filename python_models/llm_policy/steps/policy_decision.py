"""The `policy_decision` tensor: the records of admitted rows on their way from preprocess to postprocess.

The tensor is UINT8 [rows, bytes], one JSON array per row, shorter rows padded with blanks. A STRING tensor would be
slower: Triton's utilities encode and decode one in Python loops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from llm_policy.ledger.row_record import RowRecord

# What is known when a row is admitted, up to and including its ledger id.
FIELDS = RowRecord._fields[: RowRecord._fields.index("ledger_id") + 1]
_NUM_FIELDS, _STOP_WORDS = len(FIELDS), FIELDS.index("stop_words")


def pack_records(records: Sequence[RowRecord]) -> npt.NDArray[np.uint8]:
    """The tensor [rows, bytes] with `FIELDS` of each record."""
    texts = [orjson.dumps(record[:_NUM_FIELDS]) for record in records]
    width = max(map(len, texts))
    return np.frombuffer(b"".join(text.ljust(width) for text in texts), np.uint8).reshape(len(texts), width)


def unpack_records(array: npt.NDArray[np.uint8]) -> list[RowRecord]:
    """The records in a tensor [rows, bytes]; fields that it does not hold have their defaults."""
    records = []
    for row in array:
        values = orjson.loads(row.tobytes())
        values[_STOP_WORDS] = tuple(map(tuple, values[_STOP_WORDS]))
        records.append(RowRecord(*values))
    return records
