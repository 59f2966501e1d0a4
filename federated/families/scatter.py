"""Symmetric matrices as they travel: their upper triangles, row by row. Pure NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def triangle(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D, D) symmetric -> its upper triangle (D (D + 1) / 2,), row by row."""
    return matrix[np.triu_indices(len(matrix))]


def square(upper: NDArray[np.generic]) -> NDArray[np.float64]:
    """The inverse of `triangle`."""
    d = round(((8 * len(upper) + 1) ** 0.5 - 1) / 2)
    matrix = np.zeros((d, d))
    matrix[np.triu_indices(d)] = upper
    return matrix + np.triu(matrix, 1).T
