"""What the examples need."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from serve_app.settings import PREFIX


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:  # noqa: TID251
        monkeypatch.delenv(name)


@pytest.fixture
def build() -> Callable[[dict[str, Any]], Any]:
    """The composition root; imported here, because Ray warns of itself when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from serve_app.app import build  # noqa: PLC0415
    return build
