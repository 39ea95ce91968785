"""Where a queued request stands, as every protocol of ours tells it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from serve_app.domain.request import Waiting


def waiting_body(waiting: Waiting) -> dict[str, Any]:
    """All but its place, for which protocols have names of their own."""
    return {
        "reason": waiting.reason.value,
        "detail": waiting.detail,
        "stage": waiting.stage,
        "share": short(waiting.share),
        "starts_at": iso(waiting.starts_at),
        "ends_at": iso(waiting.ends_at),
    }


def short(figure: float | None) -> float | None:
    """With the digits that mean something."""
    return None if figure is None else float(f"{figure:.3g}")


def iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
