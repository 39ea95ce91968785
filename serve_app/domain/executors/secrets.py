"""Secrets by name: what a name may be, and where endpoints name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.domain.serialization import pickle_by_name

OPTION = "secrets"
"""Option of an endpoint with the names of the secrets that its executor gets."""

INSTALLATION = ""
"""Owner of the secrets that the operator sets for all tenants."""

NAME = r"[A-Z][A-Z0-9_]{0,63}"

HUB_TOKEN = "HF_TOKEN"  # noqa: S105 a name
"""Secret of a tenant with which its registered weights are fetched from the hub."""

MAX_VALUE_BYTES = 16 * 1024

_RESERVED = re.compile(
    r"(DARKROOM|LD|PYTHON|RAY|DYLD|CUDA|NVIDIA|UV|PIP)(_.*)?|PYTHON.*"
    r"|HOME|IFS|LANG|PATH|PWD|SHELL|TMPDIR|TZ|USER"
)


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Secret:
    """Value of a secret. It is not part of the representation, so no log shows it."""

    name: str
    owner: str  # a tenant, or ``INSTALLATION``
    value: str = field(repr=False)


def name_problem(name: str) -> str | None:
    """Reason why a secret cannot have this name. Processes get it as a variable."""
    if not re.fullmatch(NAME, name):
        return "A name has 1 to 64 capital letters, digits and _, and begins with a letter"
    if _RESERVED.fullmatch(name):
        return "This name belongs to a variable that processes need for themselves"
    return None


def value_problem(name: str, value: str) -> str | None:
    """Reason why a secret cannot have this value. The hub's token becomes part of a header."""
    if name == HUB_TOKEN and not (value.isascii() and value.isprintable()):
        return "The hub's token has printable ASCII characters only"
    return None


def named_by(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the secrets that an endpoint with these options uses."""
    names = options.get(OPTION, ())
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()
