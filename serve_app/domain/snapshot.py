"""A half-done generation that lies in storage."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.domain.by_name import by_name


@by_name
@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """Of a running attempt, in storage under the key of a ticket that was given out for it."""

    key: str
    step: int  # so many of the generation's steps were done
