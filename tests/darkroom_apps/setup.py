"""Apps that are set up as Darkroom does, in the process of a test."""

from __future__ import annotations

from typing import Any

import darkroom


def with_settings(kind: type[darkroom.App], settings: dict[str, Any]) -> Any:
    """An app that is set up with these settings."""
    app = type(kind.__name__, (kind,), {"settings": settings})()
    app.setup()
    return app
