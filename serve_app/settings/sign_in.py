"""Settings of the sign-in of people by an OpenID Connect provider."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.settings.groups import SettingsGroup
from serve_app.settings.patterns import Matching

Scope = Literal[
    "api",
    "submit",
    "read",
    "cancel",
    "files",
    "usage",
    "priority",
    "tenant-admin",
    "operator",
    "admin",
]
"""Scope of a key, as it is written."""
DEFAULT_SCOPES: frozenset[Scope] = frozenset({"api"})

Tenant = Annotated[
    str,
    Matching(
        r"[a-z0-9][a-z0-9_-]{0,63}",
        "1 to 64 lower-case letters, digits, _ and -, and begin with a letter or digit",
    ),
]
EndpointPattern = Annotated[
    str,
    Matching(r"[A-Za-z0-9._/*-]{1,200}", "the id of an endpoint, with * for any characters"),
]


class GroupRights(BaseModel):
    """Tenant and rights of the people of a group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Tenant
    scopes: frozenset[Scope] = Field(default=DEFAULT_SCOPES, min_length=1)
    endpoints: tuple[EndpointPattern, ...] = Field(
        default=(), description="The only endpoints; empty: all."
    )


class SignInSettings(SettingsGroup):
    """Sign-in of people by an OpenID Connect provider."""

    oidc_issuer: str | None = Field(
        default=None,
        description="URL of the provider, as in its tokens. Unset: people use API keys.",
    )
    oidc_client_id: str | None = Field(
        default=None, description="Id of Darkroom at the provider, and audience of its tokens."
    )
    oidc_audiences: tuple[str, ...] = Field(
        default=(), description="Further audiences of the tokens that programs send."
    )
    oidc_scopes: str = Field(
        default="openid profile email", description="Scopes that the provider is asked for."
    )
    oidc_groups_claim: str = Field(
        default="groups", description="Claim with the groups of a person: a list or one name."
    )
    oidc_groups: dict[str, GroupRights] = Field(
        default_factory=dict,
        description="Tenant and rights by group. The first group of a person decides the tenant; "
        "rights of its other groups for the same tenant are added. `*`: everybody else.",
    )
    oidc_session_s: float = Field(
        default=8 * 3600.0, ge=60, le=30 * 86_400, description="Duration of a sign-in."
    )
    oidc_lasting_keys: bool = Field(
        default=False,
        description="People who have signed in may make and rotate keys that outlive the sign-in, "
        "and so go on when the provider lets the person in no more.",
    )
    oidc_provider_logout: bool = Field(
        default=False,
        description="Signing out on the page ends the session at the provider too, and with it "
        "those of other programs.",
    )

    @property
    def is_enabled(self) -> bool:
        """Return whether people can sign in."""
        return self.oidc_issuer is not None
