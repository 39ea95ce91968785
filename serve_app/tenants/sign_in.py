"""Sign-in of people: who they are by a provider, what they may do, and the state of a sign-in that
has begun.

Nothing is stored until a sign-in ends: its state is signed, and travels through the provider.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.domain.errors import Forbidden, Unauthenticated
from serve_app.domain.ports import Clock
from serve_app.tenants.scopes import Caller
from serve_app.tenants.signed_claims import read_claims, sign_claims

BEGUN_VALID_S = 600
"""Time for a person to sign in at the provider."""
EVERYBODY = "*"
AUDIENCE = "sign-in"
ACTOR = "oidc:"
"""Beginning of the id of a caller with a token of the provider; no key's id has a colon."""


@dataclass(frozen=True, slots=True)
class Person:
    """Person or program as the provider knows it."""

    subject: str
    name: str  # for lists and the audit log
    groups: Sequence[str]


@dataclass(frozen=True, slots=True)
class Rights:
    """Tenant and rights of a group."""

    tenant: str
    scopes: frozenset[str]
    endpoints: tuple[str, ...] = ()  # empty: all


@dataclass(frozen=True, slots=True)
class DeviceSignIn:
    """Sign-in of a program without a browser (RFC 8628), as the provider began it."""

    device_code: str  # the program asks with it whether the person has signed in; secret
    user_code: str  # the person enters it
    url: str  # there
    url_with_code: str  # the same with the code in it; empty: the provider has none
    valid_s: float
    ask_every_s: float


@dataclass(frozen=True, slots=True)
class Pending:
    """The person has not signed in yet. ``slower``: ask 5 seconds less often from now on."""

    slower: bool


class SignInProvider(Protocol):
    """OpenID Connect provider. ``ProviderUnavailable``: it does not answer."""

    async def begin(self, redirect_uri: str, begun: BegunSignIn) -> str:
        """URL at which a person signs in."""
        ...

    async def finish(self, redirect_uri: str, code: str, begun: BegunSignIn) -> Person:
        """Exchange the code of the provider. ``Unauthenticated``: it is not valid."""
        ...

    async def begin_device(self) -> DeviceSignIn:
        """Begin the sign-in of a program. ``Unsupported``: the provider has no such sign-in."""
        ...

    async def finish_device(self, device_code: str) -> Person | Pending:
        """Ask whether the person has signed in. ``Forbidden``: the person refused.
        ``Unauthenticated``: it took too long, or has ended before."""
        ...

    async def logout_url(self, back: str) -> str | None:
        """URL at which a person ends the session at the provider too, which then sends the browser
        ``back``. None: the provider has none, or does not answer."""
        ...

    async def person_of(self, token: str) -> Person:
        """Check a token that the provider signed. ``Unauthenticated``: it is not valid."""
        ...


@dataclass(frozen=True, slots=True)
class BegunSignIn:
    """Values of one sign-in. ``state`` travels through the provider, ``secret`` stays in the
    browser that began it."""

    state: str
    secret: str
    nonce: str
    verifier: str  # of PKCE


class SignInStates:
    """Issuer and verifier of the states of sign-ins, with a secret that all ingress replicas
    share."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def begin(self) -> BegunSignIn:
        id_, secret = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        claims = {
            "aud": AUDIENCE,
            "id": id_,
            "secret": hashlib.sha256(secret.encode()).hexdigest(),
            "exp": int(self._clock.now().timestamp()) + BEGUN_VALID_S,
        }
        return self._build_sign_in(sign_claims(claims, self._secret), secret, id_)

    def check(self, state: str, secret: str) -> BegunSignIn:
        """Values of the sign-in that began with this state. ``Unauthenticated``: it did not begin
        here, not in this browser, or too long ago."""
        claims = read_claims(
            state,
            self._secret,
            ("exp", "id", "secret"),
            "This sign-in did not begin here. Sign in again.",
            audience=AUDIENCE,
        )
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if not hmac.compare_digest(digest, str(claims["secret"])):
            raise Unauthenticated("This sign-in began in another browser. Sign in again.")
        if self._clock.now().timestamp() >= claims["exp"]:
            raise Unauthenticated("This sign-in took too long. Sign in again.")
        return self._build_sign_in(state, secret, str(claims["id"]))

    def _build_sign_in(self, state: str, secret: str, id_: str) -> BegunSignIn:
        return BegunSignIn(state, secret, self._derive("nonce", id_), self._derive("pkce", id_))

    def _derive(self, purpose: str, id_: str) -> str:
        return hmac.new(self._secret, f"{purpose} {id_}".encode(), hashlib.sha256).hexdigest()


def rights_of(person: Person, groups: Mapping[str, Rights]) -> Rights:
    """Tenant and rights of a person. The first of ``groups`` that the person has decides the
    tenant. ``Forbidden``: the person has none."""
    own = [rights for name, rights in groups.items() if name in person.groups]
    if not own and EVERYBODY in groups:
        own = [groups[EVERYBODY]]
    if not own:
        named = ", ".join(person.groups[:10]) if person.groups else "none"
        raise Forbidden(
            f"{person.name} may not use this Darkroom: none of the groups ({named}) has a tenant "
            "here. Ask the operator of this installation to add one to `oidc_groups`."
        )
    same = [rule for rule in own if rule.tenant == own[0].tenant]
    scopes = frozenset[str]().union(*(rule.scopes for rule in same))
    if all(rule.endpoints for rule in same):
        endpoints = dict.fromkeys(name for rule in same for name in rule.endpoints)
        return Rights(own[0].tenant, scopes, tuple(endpoints))
    return Rights(own[0].tenant, scopes)


def actor_id(person: Person) -> str:
    """Id of a person in the audit log, which the person cannot change."""
    return f"{ACTOR}{person.subject[:64]}"


def caller_of(person: Person, rights: Rights) -> Caller:
    """Identity of a caller that sent a token of the provider."""
    return Caller(actor_id(person), rights.tenant, rights.scopes, endpoints=rights.endpoints)


def provider_token(header: str | None) -> str | None:
    """Token of a provider in an ``Authorization`` header; None if it has something else, such as an
    API key, which has a colon."""
    scheme, _, text = (header or "").partition(" ")
    token = text.strip()
    return (
        token if scheme.lower() == "bearer" and ":" not in token and token.count(".") == 2 else None
    )
