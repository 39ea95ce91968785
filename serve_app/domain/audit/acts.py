"""Entries of the audit log: who did what to what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller of an act that is written to the audit log."""

    key_id: str  # of its API key; empty for an invalid one
    address: str = ""  # of the client; empty if it is not known


@dataclass(frozen=True, slots=True)
class NewAct:
    """Act to be written to the audit log by itself, because it changes nothing else."""

    actor: Actor
    action: str  # such as ``tenant.read``
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Act:
    """One row of the audit log."""

    id: int  # ascending
    at: datetime
    actor: str  # the id of an API key
    action: str  # such as ``endpoint.pause``
    subject: str  # an endpoint, the id of a request or a key, a file, or a tenant
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    address: str = ""  # of the client
