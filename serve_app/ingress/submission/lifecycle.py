"""fal's header that says how long files are kept, and who may read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.media.file_access import AccessDecision
from serve_app.ingress.services.file_access import AccessRules

LIFECYCLE_HEADERS = ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference")
"""Names of the header. fal's Python client sends both, with the same content; its JavaScript client
sends one of them."""

MAX_KEEP_S = 100 * 366 * 86400
"""Longest time in seconds: a hundred years, which PostgreSQL's calendar can represent."""

MAX_RULES = 100


class AccessRule(BaseModel):
    """Decision for one user: a tenant, by its id."""

    model_config = ConfigDict(extra="forbid")

    user: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
    decision: AccessDecision


class InitialAcl(BaseModel):
    """Access rules of files. The tenant that stores them may always read them."""

    model_config = ConfigDict(extra="forbid")

    default: AccessDecision | None = None
    rules: list[AccessRule] | None = Field(default=None, max_length=MAX_RULES)


class Lifecycle(BaseModel):
    """Value of the header.

    ``expiration_duration_seconds``: counted from when the file is stored; None means the tenant's
    retention. ``initial_acl``: None means the tenant's default.
    """

    model_config = ConfigDict(extra="forbid")

    expiration_duration_seconds: float | None = Field(default=None, gt=0, le=MAX_KEEP_S)
    initial_acl: InitialAcl | None = None

    @property
    def access(self) -> AccessRules | None:
        """Access rules that the client asks for. The last of several rules for a user counts."""
        acl = self.initial_acl
        if acl is None:
            return None
        return AccessRules(acl.default, {rule.user: rule.decision for rule in acl.rules or ()})


def read_lifecycle(headers: Mapping[str, str]) -> Lifecycle:
    """Lifecycle of a file to upload. ``InvalidInput`` names the header."""
    lifecycle = Lifecycle()
    for name in LIFECYCLE_HEADERS:
        if (value := headers.get(name)) is not None:
            lifecycle = parse_lifecycle(name, value)
    return lifecycle


def parse_lifecycle(name: str, value: str) -> Lifecycle:
    """Parse the header's value. ``InvalidInput`` names the header."""
    try:
        return Lifecycle.model_validate_json(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the header"
        what, type_ = f"{where}: {first['msg']}", first["type"]
        problem = FieldProblem(("header", name), what, type_)
        raise InvalidInput(f"{name}: {what}.", (problem,)) from None
