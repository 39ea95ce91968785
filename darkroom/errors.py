"""Errors of an app whose text the sender of the request may read. Any other error is reported by
its type and text."""

from __future__ import annotations

from typing import Any


class AppError(Exception):
    """The request fails with this text."""

    def __init__(self, message: str, *, retry: bool = False) -> None:
        """``retry``: another attempt may succeed."""
        super().__init__(message)
        self.message = message
        self.retry = retry


class InvalidField(AppError):
    """An input field that only the app could refuse. The request ends with 422."""

    def __init__(
        self,
        field: str,
        message: str,
        type: str = "value_error",
        context: dict[str, Any] | None = None,
    ) -> None:
        """``type``, ``context``: as in fal's errors, such as ``image_too_large`` and its limit."""
        super().__init__(message)
        self.field = field
        self.type = type
        self.context = context
