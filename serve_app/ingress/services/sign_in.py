"""Sign-in of people, if the settings name a provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.domain.errors import Misconfigured
from serve_app.domain.ports import Clock
from serve_app.settings import Config, Secrets
from serve_app.tenants.sign_in import Rights, SignInProvider, SignInStates

if TYPE_CHECKING:  # its libraries are only needed with a provider
    from serve_app.tenants.oidc import OpenIdProvider


@dataclass(frozen=True, slots=True)
class SignIn:
    """Provider of people's identities, and the states of the sign-ins that have begun."""

    provider: SignInProvider
    states: SignInStates

    def groups(self, config: Config) -> Mapping[str, Rights]:
        """Tenant and rights by group, as the settings say now."""
        return {
            name: Rights(group.tenant, frozenset(group.scopes), group.endpoints)
            for name, group in config.sign_in.oidc_groups.items()
        }


def sign_in_of(config: Config, secrets: Secrets, secret: bytes, clock: Clock) -> SignIn | None:
    """The sign-in that the settings describe; None without a provider. Calls nobody.

    ``secret``: shared by all ingress replicas. ``Misconfigured``: a setting is missing.
    """
    if not config.sign_in.is_enabled:
        return None
    return SignIn(provider_of(config, secrets, clock), SignInStates(secret, clock))


def provider_of(config: Config, secrets: Secrets, clock: Clock) -> OpenIdProvider:
    """The provider that the settings name. ``Misconfigured``: a setting is missing."""
    from serve_app.tenants.oidc import OpenIdProvider, ProviderConfig  # noqa: PLC0415

    settings = config.sign_in
    if not settings.oidc_issuer or not settings.oidc_client_id:
        raise Misconfigured(
            "DARKROOM_OIDC_ISSUER is set, and DARKROOM_OIDC_CLIENT_ID is not. Set it to the id "
            "that Darkroom has at the provider."
        )
    secret = secrets.oidc_client_secret
    provider = ProviderConfig(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret="" if secret is None else secret.get_secret_value(),
        audiences=settings.oidc_audiences,
        scopes=settings.oidc_scopes,
        groups_claim=settings.oidc_groups_claim,
    )
    return OpenIdProvider(provider, clock)
