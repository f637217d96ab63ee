"""One output tensor of a step: a value per row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from llm_policy.rules.row_input import Array


class Column(NamedTuple):
    """The values of a tensor [rows, 1], one per row. Hashable, so that equal columns can share one tensor."""

    values: tuple[Any, ...]
    data_type: Any

    def array(self) -> Array:
        """The values as an array [rows, 1]."""
        array = np.empty((len(self.values), 1), self.data_type)
        array[:, 0] = self.values
        return array
