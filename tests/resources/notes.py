"""A resource that Darkroom does not have: all that another one takes. Its table would stand in the
schema."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from serve_app.resources.declaration import Owner, Resource
from serve_app.resources.registry import RESOURCES
from serve_app.tenants.scopes import CANCEL, READ

TABLE = """
CREATE TABLE notes (
    tenant     text NOT NULL,
    name       text NOT NULL,
    text       text NOT NULL,
    pinned     boolean NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL,
    PRIMARY KEY (tenant, name)
)
"""


class NewNote(BaseModel):
    """Note to be written."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=1000)
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Note of a tenant."""

    name: str
    text: str
    pinned: bool
    changed_at: datetime
    changed_by: Annotated[str, Field(description="Id of an API key.")]


NOTES = Resource(
    name="note",
    path="/v1/notes",
    model=Note,
    body=NewNote,
    key="name",
    key_description="Name of the note.",
    scope=READ,
    change_scope=CANCEL,
    owner=Owner.TENANT,
    table="notes",
    max_per_owner=3,
    columns=("name", "text", "pinned"),
    about="sentences to remember",
    has_show=True,
    deletion="Nothing else has its text.",
)
WITH_NOTES = (*RESOURCES, NOTES)
