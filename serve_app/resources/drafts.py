"""Drafts: generations that were stopped early, and that other requests go on from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field

from serve_app.resources.declaration import Resource
from serve_app.tenants.scopes import CANCEL, READ


@dataclass(frozen=True, slots=True)
class RequestDraft:
    """Draft that has not expired."""

    id: Annotated[str, Field(description="Value of the input field `from_draft`.")]
    endpoint_id: str
    request_id: Annotated[str, Field(description="The request that made it.")]
    seed: int
    step: Annotated[int, Field(description="Steps that it has made.")]
    steps: Annotated[int, Field(description="Steps of the finished output; 0: unknown.")]
    noise: Annotated[float | None, Field(description="Share of noise that is left; null: unknown.")]
    size: Annotated[int, Field(description="Bytes.")]
    created_at: datetime
    expires_at: datetime


DRAFTS = Resource(
    name="draft",
    path="/v1/drafts",
    model=RequestDraft,
    key="id",
    key_description="Id of a draft of the key's tenant.",
    scope=READ,
    change_scope=CANCEL,
    about="unfinished generations that requests continue",
    has_show=True,
    deletion="Requests that already go on from it still do; new ones are refused.",
    tables_with_files=("drafts",),
    columns=("id", "endpoint_id", "step", "steps", "size", "expires_at"),
)
