"""Rows of batches and of their lines."""

from __future__ import annotations

from typing import Any

from serve_app.domain.batches.batch import BatchError, BatchStatus, BatchStop, StoredBatch

BATCH = """
    b.id, b.tenant, b.key_id, b.origin, b.endpoint, b.input_file, b.input_key, b.status,
    b.created_at, b.expires_at, b.metadata, b.keep_outputs_s, b.stop, b.errors, b.total,
    b.completed, b.failed, b.output_file, b.error_file, b.in_progress_at, b.cancelling_at,
    b.finalizing_at, b.ended_at, b.max_cost, b.headers, now() AS read_at
"""
"""Columns of ``batches b``, as ``batch_of`` reads them."""


_NAMES = [name.split()[-1].removeprefix("b.") for name in BATCH.split(",")]


def batch_of(row: tuple[Any, ...]) -> StoredBatch:
    """Batch of a row with the columns ``BATCH``, which have the names of its fields."""
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    stop = values["stop"]
    values["status"] = BatchStatus(values["status"])
    values["stop"] = None if stop is None else BatchStop(stop)
    values["errors"] = tuple(BatchError(**error) for error in values["errors"])
    return StoredBatch(**values)
