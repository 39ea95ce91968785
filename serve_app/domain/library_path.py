"""Variable of the linker for Python processes that get no other variables of this one."""

from __future__ import annotations

import os


def library_path() -> dict[str, str]:
    """Variable without which a Python of an environment module does not find its own library."""
    path = os.environ.get("LD_LIBRARY_PATH")  # noqa: TID251 of the linker, not a setting
    return {} if path is None else {"LD_LIBRARY_PATH": path}
