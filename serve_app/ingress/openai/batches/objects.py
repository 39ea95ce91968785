"""Batches and their files in OpenAI's format."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from typing_extensions import TypedDict

from serve_app.domain.batches.batch import BatchFile, BatchStatus, StoredBatch

WINDOW = "24h"
WINDOW_S = 86_400.0
FilePurposeName = Literal["batch", "batch_output"]
BatchStatusName = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]


class OpenAiFile(TypedDict):
    """Input or output of batches."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]


class OpenAiFilePage(TypedDict):
    object: Literal["list"]
    data: list[OpenAiFile]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenAiDeletedFile(TypedDict):
    id: str
    object: Literal["file"]
    deleted: bool


class BatchErrorItem(TypedDict):
    """Reason why the input file was refused."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrorList(TypedDict):
    object: Literal["list"]
    data: list[BatchErrorItem]


class RequestCounts(TypedDict):
    """Numbers of lines. ``failed`` includes those that were cancelled or expired."""

    total: int
    completed: int
    failed: int


class OpenAiBatch(TypedDict):
    """Batch of requests."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrorList | None
    input_file_id: str
    completion_window: str
    status: BatchStatusName
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class OpenAiBatchPage(TypedDict):
    object: Literal["list"]
    data: list[OpenAiBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool


def file_object(file: BatchFile) -> OpenAiFile:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": _seconds(file.expires_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def file_page(files: Sequence[BatchFile], limit: int) -> OpenAiFilePage:
    """Page of at most ``limit`` files; ``files`` may have one more, which says that more exist."""
    data = [file_object(file) for file in files[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(files) > limit,
    }


def batch_object(batch: StoredBatch) -> OpenAiBatch:
    def ended_as(status: BatchStatus) -> int | None:
        return _seconds(batch.ended_at) if batch.status is status else None

    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": _errors(batch),
        "input_file_id": batch.input_file,
        "completion_window": WINDOW,
        "status": batch.status.value,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": int(batch.created_at.timestamp()),
        "in_progress_at": _seconds(batch.in_progress_at),
        "expires_at": int(batch.expires_at.timestamp()),
        "finalizing_at": _seconds(batch.finalizing_at),
        "completed_at": ended_as(BatchStatus.COMPLETED),
        "failed_at": ended_as(BatchStatus.FAILED),
        "expired_at": ended_as(BatchStatus.EXPIRED),
        "cancelling_at": _seconds(batch.cancelling_at),
        "cancelled_at": ended_as(BatchStatus.CANCELLED),
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": None if batch.metadata is None else {**batch.metadata},
    }


def batch_page(batches: Sequence[StoredBatch], limit: int) -> OpenAiBatchPage:
    """Page of at most ``limit`` batches, as ``file_page``."""
    data = [batch_object(batch) for batch in batches[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(batches) > limit,
    }


def _errors(batch: StoredBatch) -> BatchErrorList | None:
    if not batch.errors:
        return None
    data: list[BatchErrorItem] = [
        {"code": error.code, "line": error.line, "message": error.message, "param": error.param}
        for error in batch.errors
    ]
    return {"object": "list", "data": data}


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
