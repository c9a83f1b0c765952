"""What the tables of a store hold: Arrow schemas, and vectors that rank by probability.

Knows Arrow and numbers; must not know files or searches. docs/library.md tells readers of a store
who use other tools the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    import pyarrow

Array = npt.NDArray[np.float32]

WHOLE = 0
"""Number of the window that is the whole picture."""

LANES = 16
"""Vectors are padded with zeros to a multiple of this, for product codes and for processors."""


def pictures_schema() -> pyarrow.Schema:
    """One row a file."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("content", pa.string()),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("modified_ns", pa.int64(), nullable=False),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("taken", pa.timestamp("s")),
            pa.field("camera", pa.string()),
            pa.field("problem", pa.string()),
            pa.field("missing", pa.bool_(), nullable=False),
        ]
    )


def windows_schema(dimensions: int) -> pyarrow.Schema:
    """One row a window of each different content. dimensions: D, of the encoder's embeddings."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("content", pa.string(), nullable=False),
            pa.field("number", pa.int32(), nullable=False),
            pa.field("scale", pa.float32(), nullable=False),
            pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
            pa.field("vector", pa.list_(pa.float16(), padded(dimensions)), nullable=False),
        ]
    )


def padded(dimensions: int) -> int:
    """The length of stored vectors: D, two columns for the weight of the negatives, and zeros."""
    return -(-(dimensions + 2) // LANES) * LANES


def stored_vectors(
    embeddings: Array, weights: Array, logit_scale: float
) -> npt.NDArray[np.float16]:
    """Vectors whose inner product with `asking_vector` ranks windows by probability.

    embeddings: unit-norm (N, D). weights: (N,), their `relevance.negatives_weight`.
    Returns float16 (N, padded(D)). A row is [x, high, low, 0 ...] with high + low = -w / scale, in
    two parts because one float16 would be off by several hundredths of a logit.
    """
    count, dimensions = embeddings.shape
    rows = np.zeros((count, padded(dimensions)), np.float16)
    rows[:, :dimensions] = embeddings
    weight = -weights / logit_scale
    rows[:, dimensions] = weight
    rows[:, dimensions + 1] = weight - rows[:, dimensions].astype(np.float32)
    return rows


def asking_vector(prompt: Array) -> Array:
    """[q, 1, 1, 0 ...] of a prompt's embedding q (D,).

    Its inner product with a stored row, times the logit scale, is the log-odds of the prompt
    against all of the bank.
    """
    asking = np.zeros(padded(len(prompt)), np.float32)
    asking[: len(prompt)] = prompt
    asking[len(prompt) : len(prompt) + 2] = 1
    return asking


def embeddings_in(rows: pyarrow.Table, dimensions: int) -> torch.Tensor:
    """The embeddings float32 (N, D) in rows of the windows' table."""
    flat = rows["vector"].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(len(rows), padded(dimensions))[:, :dimensions]
    return torch.from_numpy(vectors.astype(np.float32))


def boxes_in(rows: pyarrow.Table) -> Array:
    """The boxes of rows of the windows' table as xyxy, float32 (N, 4)."""
    flat = rows["box"].combine_chunks().flatten().to_numpy()
    return np.asarray(flat, np.float32).reshape(-1, 4)


def window_rows(
    content: str, scales: Array, boxes: Array, vectors: npt.NDArray[np.float16]
) -> dict[str, Any]:
    """Columns of the windows' table for the windows of one picture, whose order numbers them."""
    return {
        "content": np.full(len(boxes), content, object),
        "number": np.arange(len(boxes), dtype=np.int32),
        "scale": scales,
        "box": boxes,
        "vector": vectors,
    }


def windows_table(pictures: list[dict[str, Any]], dimensions: int) -> pyarrow.Table:
    """`window_rows` of several pictures as one Arrow table."""
    import pyarrow as pa

    schema = windows_schema(dimensions)
    columns = {
        name: np.concatenate([picture[name] for picture in pictures]) for name in schema.names
    }
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
        if column.ndim == 2
        else pa.array(column, schema.field(name).type)
        for name, column in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
