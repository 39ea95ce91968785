"""OpenID Connect provider: discovery, authorization code with PKCE, and check of its tokens.

It is imported only where people can sign in: its libraries take time and memory.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpcore2
import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from serve_app.domain.errors import (
    DarkroomError,
    Forbidden,
    Misconfigured,
    ProviderUnavailable,
    Unauthenticated,
    Unsupported,
)
from serve_app.domain.ports import Clock
from serve_app.tenants.sign_in import BegunSignIn, DeviceSignIn, Pending, Person

KEEP_S = 3600.0
"""How long the provider's addresses and keys are used without asking again."""
STALE_S = 24 * 3600.0
"""How long they are used while the provider does not answer."""
ASK_AGAIN_S = 60.0
"""Least time between two questions for keys because of a token with an unknown one."""
FAILED_S = 10.0
"""Time after a failure in which the provider is not asked again."""
PATIENCE_S = 10.0
CLOCK_SKEW_S = 60
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Signatures with a public key. With a shared secret, who checks a token could also make it."""
BASIC = "client_secret_basic"
_ = httpcore2  # httpx2 would import it in the event loop, which reads files
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
DEVICE_VALID_S, DEVICE_ASK_S = 600.0, 5.0  # for providers that do not say
WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """Settings of the sign-in."""

    issuer: str
    client_id: str
    client_secret: str = ""  # empty: a public client
    audiences: tuple[str, ...] = ()  # further ones of tokens that programs send
    scopes: str = "openid profile email"
    groups_claim: str = "groups"


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What the provider says about itself."""

    metadata: Mapping[str, Any]
    keys: KeySet
    at: float  # monotonic


class OpenIdProvider:
    """Implements ``SignInProvider``. It asks the provider first when it is needed."""

    def __init__(self, config: ProviderConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._facts: ProviderFacts | None = None
        self._asking = asyncio.Lock()
        self._tls: ssl.SSLContext | None = None  # made once: it reads files
        self._failed_at: float | None = None  # monotonic; None: it answered last

    async def begin(self, redirect_uri: str, begun: BegunSignIn) -> str:
        facts = await self._current_facts()
        async with await self._client(facts, redirect_uri) as client:
            url, _ = client.create_authorization_url(
                self._endpoint(facts, "authorization_endpoint"),
                state=begun.state,
                nonce=begun.nonce,
                code_verifier=begun.verifier,
            )
        return str(url)

    async def finish(self, redirect_uri: str, code: str, begun: BegunSignIn) -> Person:
        facts = await self._current_facts()
        async with await self._client(facts, redirect_uri) as client:
            try:
                token: Mapping[str, Any] = await client.fetch_token(
                    self._endpoint(facts, "token_endpoint"), code=code, code_verifier=begun.verifier
                )
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise self._unavailable(type(error).__name__) from None
            except AuthlibBaseError as error:
                raise _refusal(error) from None
            claims = await self._claims(str(token.get("id_token", "")), [self._config.client_id])
            if claims.get("nonce") != begun.nonce:
                raise Unauthenticated("The provider answered another sign-in. Sign in again.")
            claims = {**await self._user_info(client, facts, claims), **claims}
        return self._person(claims)

    async def begin_device(self) -> DeviceSignIn:
        facts = await self._current_facts()
        url = facts.metadata.get("device_authorization_endpoint")
        if not url:
            raise Unsupported(
                f"The sign-in provider {self._config.issuer} offers none for programs (device "
                "flow). Use an API key: `darkroom login URL --key KEY`."
            )
        async with await self._client(facts, "") as client:
            auth = client.client_auth(client.token_endpoint_auth_method)
            form = {"client_id": self._config.client_id, "scope": self._config.scopes}
            try:
                answer = await client.post(url, data=form, auth=auth)
                body: Any = answer.json()
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
                raise self._unavailable(type(error).__name__) from None
        if answer.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR or not isinstance(body, dict):
            raise self._unavailable(f"status {answer.status_code}")
        if answer.is_error:
            raise _refused_client(str(body.get("error", answer.status_code)))
        return _device_sign_in(body)

    async def finish_device(self, device_code: str) -> Person | Pending:
        facts = await self._current_facts()
        async with await self._client(facts, "") as client:
            try:
                token: Mapping[str, Any] = await client.fetch_token(
                    self._endpoint(facts, "token_endpoint"),
                    grant_type=DEVICE_GRANT,
                    device_code=device_code,
                )
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise self._unavailable(type(error).__name__) from None
            except AuthlibBaseError as error:
                return _pending(error)
            claims = await self._claims(str(token.get("id_token", "")), [self._config.client_id])
            claims = {**await self._user_info(client, facts, claims), **claims}
        return self._person(claims)

    async def logout_url(self, back: str) -> str | None:
        try:
            url = (await self._current_facts()).metadata.get("end_session_endpoint")
        except DarkroomError:
            return None  # the session here ends all the same
        if not url:
            return None
        # No identity token is kept, so the provider may ask the person whether to sign out.
        params = {"client_id": self._config.client_id, "post_logout_redirect_uri": back}
        return str(httpx2.URL(str(url)).copy_merge_params(params))

    async def person_of(self, token: str) -> Person:
        audiences = [self._config.client_id, *self._config.audiences]
        return self._person(await self._claims(token, audiences))

    async def clock_difference_s(self) -> float:
        """Seconds by which the provider's clock is ahead of this one, about a second exact."""
        from email.utils import parsedate_to_datetime  # noqa: PLC0415

        async with await self._http() as client:
            answer = await self._get(client, self._config.issuer.rstrip("/") + WELL_KNOWN)
        at = parsedate_to_datetime(answer.headers["date"]) if "date" in answer.headers else None
        return 0.0 if at is None else (at - self._clock.now()).total_seconds()

    async def check(self) -> None:
        """Read the provider's addresses and keys. ``ProviderUnavailable``, ``Misconfigured``."""
        await self._read()

    async def _claims(self, token: str, audiences: list[str]) -> Mapping[str, Any]:
        """Claims of a token, after all checks. ``Unauthenticated`` says which failed."""
        facts = await self._current_facts()
        try:
            checked = jwt.decode(token, facts.keys, algorithms=[*ALGORITHMS])
        except (JoseError, ValueError):
            # The provider may have a new key since.
            if self._clock.monotonic() - facts.at < ASK_AGAIN_S:
                raise Unauthenticated("The token's signature is not valid.") from None
            try:
                facts = await self._renew_facts(facts)
                checked = jwt.decode(token, facts.keys, algorithms=[*ALGORITHMS])
            except (JoseError, ValueError):
                raise Unauthenticated("The token's signature is not valid.") from None
        claims: Mapping[str, Any] = checked.claims
        self._check_claims(claims, audiences)
        return claims

    def _check_claims(self, claims: Mapping[str, Any], audiences: list[str]) -> None:
        now = self._clock.now().timestamp()
        if claims.get("iss") != self._config.issuer:
            raise Unauthenticated("The token is of another issuer.")
        audience = claims.get("aud")
        if not {*(audience if isinstance(audience, list) else [audience])} & {*audiences}:
            raise Unauthenticated("The token is for another audience.")
        if not isinstance(claims.get("exp"), int | float) or not claims.get("sub"):
            raise Unauthenticated("The token lacks `exp` or `sub`.")
        if now >= claims["exp"] + CLOCK_SKEW_S:
            raise Unauthenticated("The token has expired.")
        for name in ("nbf", "iat"):
            at = claims.get(name, 0)
            if not isinstance(at, int | float) or at > now + CLOCK_SKEW_S:
                raise Unauthenticated("The token is not valid yet. Check the clocks.")

    def _person(self, claims: Mapping[str, Any]) -> Person:
        subject = str(claims["sub"])
        # An address that nobody has verified may be another person's.
        verified = claims.get("email_verified", True) is not False
        name = (
            (claims.get("email") if verified else None)
            or claims.get("preferred_username")
            or claims.get("name")
        )
        claim = claims.get(self._config.groups_claim, [])
        groups = claim if isinstance(claim, list) else [claim]
        return Person(subject, str(name or subject)[:200], [str(group) for group in groups])

    async def _user_info(
        self, client: httpx2.AsyncClient, facts: ProviderFacts, claims: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Claims that the provider tells only when it is asked; many leave groups out of tokens."""
        address = facts.metadata.get("userinfo_endpoint")
        if not address or self._config.groups_claim in claims:
            return {}
        user_info = await self._json(client, address)
        if user_info.get("sub") != claims["sub"]:
            raise Unauthenticated("The provider told of another person. Sign in again.")
        return user_info

    async def _client(
        self, facts: ProviderFacts, redirect_uri: str
    ) -> Any:  # the library's class is not typed
        config = self._config
        known = facts.metadata.get("token_endpoint_auth_methods_supported", [BASIC])
        with_secret = BASIC if BASIC in known else "client_secret_post"
        return AsyncOAuth2Client(
            config.client_id,
            config.client_secret or None,
            scope=config.scopes,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            token_endpoint_auth_method=with_secret if config.client_secret else "none",
            timeout=PATIENCE_S,
            verify=await self._trust(),
        )

    async def _http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(timeout=PATIENCE_S, verify=await self._trust())

    async def _trust(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

    async def _current_facts(self) -> ProviderFacts:
        facts, now = self._facts, self._clock.monotonic()
        if facts is not None and now - facts.at < KEEP_S:
            return facts
        try:
            return await self._renew_facts(facts)
        except ProviderUnavailable:
            if facts is None or now - facts.at >= STALE_S:
                raise
            return facts

    async def _renew_facts(self, before: ProviderFacts | None) -> ProviderFacts:
        """Ask the provider, once for all callers that wait."""
        async with self._asking:
            if self._facts is not before and self._facts is not None:
                return self._facts
            now = self._clock.monotonic()
            if self._failed_at is not None and now - self._failed_at < FAILED_S:
                raise self._unavailable("it did not answer a moment ago")
            try:
                self._facts = await self._read()
            except ProviderUnavailable:
                self._failed_at = self._clock.monotonic()
                raise
            self._failed_at = None
            return self._facts

    async def _read(self) -> ProviderFacts:
        issuer = self._config.issuer
        async with await self._http() as client:
            metadata = await self._json(client, issuer.rstrip("/") + WELL_KNOWN)
            if metadata.get("issuer") != issuer:
                raise Misconfigured(
                    f"DARKROOM_OIDC_ISSUER is {issuer}, but the provider there says that it is "
                    f"{metadata.get('issuer')}. Set it to exactly that."
                )
            jwks: Any = await self._json(client, str(metadata.get("jwks_uri")))
            try:
                keys = KeySet.import_key_set(jwks)
            except (JoseError, KeyError, TypeError, ValueError):
                raise self._unavailable("its keys cannot be read") from None
        return ProviderFacts(metadata, keys, self._clock.monotonic())

    async def _get(self, client: httpx2.AsyncClient, url: str) -> httpx2.Response:
        try:
            answer = await client.get(url)
            answer.raise_for_status()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unavailable(type(error).__name__) from None
        return answer

    async def _json(self, client: httpx2.AsyncClient, url: str) -> Mapping[str, Any]:
        answer = await self._get(client, url)
        try:
            document: Any = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._unavailable(f"{url} is not JSON")
        return document

    def _endpoint(self, facts: ProviderFacts, name: str) -> str:
        return str(facts.metadata[name])

    def _unavailable(self, why: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"The sign-in provider {self._config.issuer} does not answer ({why}). API keys still "
            "work. Try again later."
        )


def _device_sign_in(answer: Mapping[str, Any]) -> DeviceSignIn:
    return DeviceSignIn(
        str(answer["device_code"]),
        str(answer["user_code"]),
        str(answer["verification_uri"]),
        str(answer.get("verification_uri_complete") or ""),
        float(answer.get("expires_in") or DEVICE_VALID_S),
        float(answer.get("interval") or DEVICE_ASK_S),
    )


def _pending(error: AuthlibBaseError) -> Pending:
    """State of a sign-in for which there is no token yet. Raises the error if it has ended."""
    if error.error in ("authorization_pending", "slow_down"):
        return Pending(slower=error.error == "slow_down")
    if error.error == "access_denied":
        raise Forbidden("The sign-in was refused at the provider.")
    if error.error == "expired_token":
        raise Unauthenticated("This sign-in took too long. Sign in again.")
    raise _refusal(error)


def _refusal(error: AuthlibBaseError) -> DarkroomError:
    """Error for a code that the provider did not exchange."""
    if error.error == "invalid_grant":
        return Unauthenticated(
            "The provider did not accept this sign-in: its code was used before or has expired. "
            "Sign in again."
        )
    return _refused_client(str(error.error))


def _refused_client(why: str) -> Misconfigured:
    return Misconfigured(
        f"The provider refuses Darkroom itself ({why}). Check DARKROOM_OIDC_CLIENT_ID and "
        "DARKROOM_OIDC_CLIENT_SECRET, and the redirect address that is registered there."
    )
