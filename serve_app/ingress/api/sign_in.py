"""``/v1/sign-in``: people sign in at an OpenID Connect provider, and get a short-lived key, or open
a one-time link.

The page holds that key as it holds any other, and sends it in a header. There is no cookie, so no
other site can make calls in its name.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import Forbidden, NotFound
from serve_app.ingress.api.keys import CreatedKey, credential_body
from serve_app.ingress.http.auth import (
    actor_of,
    allowed_rights,
    authenticate,
    counted_failure,
    limit_anonymous,
)
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.client_address import client_address
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import Answer, DocumentedRoute, Operation, answer
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.route_scopes import ANY_KEY, NO_KEY
from serve_app.ingress.services.services import services_of
from serve_app.ingress.services.sign_in import SignIn
from serve_app.tenants.scopes import TENANT_ADMIN
from serve_app.tenants.sign_in import Pending, Person

MAX_BODY_BYTES = 16 * 1024
LINK_VALID_S = 43_200.0
MAX_LINK_VALID_S = 7 * 86_400.0


class SignInOffer(TypedDict):
    """Offer to sign in, if people can."""

    available: bool


class BegunAtProvider(TypedDict):
    """Where to sign in. The caller keeps `state` and `secret` until the provider sends the browser
    back, and compares the state."""

    url: str
    state: str
    secret: str


class ProviderAnswer(BaseModel):
    """Answer of the provider, as the browser was sent back with it, and the secret."""

    model_config = ConfigDict(extra="forbid")

    code: str = Field(min_length=1, max_length=4096)
    state: str = Field(min_length=1, max_length=4096)
    secret: str = Field(min_length=1, max_length=256)


class BegunDevice(TypedDict):
    """Where a person enters which code. The program keeps `device_code`, and asks with it."""

    device_code: Annotated[str, Field(description="Secret.")]
    user_code: Annotated[str, Field(description="Show it to the person.")]
    url: str
    url_with_code: Annotated[str | None, Field(description="Null: the provider has none.")]
    valid_s: Annotated[float, Field(description="Seconds until it has to be begun again.")]
    ask_every_s: Annotated[float, Field(description="Seconds to wait before each question.")]


class DeviceAnswer(BaseModel):
    """Program that asks whether the person has signed in."""

    model_config = ConfigDict(extra="forbid")

    device_code: str = Field(min_length=1, max_length=4096)


class PendingDevice(TypedDict):
    """The person has not signed in yet."""

    pending: bool
    slower: Annotated[bool, Field(description="Wait 5 seconds longer from now on.")]


class NewLink(BaseModel):
    """How long a one-time link is valid."""

    model_config = ConfigDict(extra="forbid")

    valid_s: float = Field(default=LINK_VALID_S, ge=60, le=MAX_LINK_VALID_S)


class OneTimeLink(TypedDict):
    """Link to the page for one browser."""

    token: Annotated[str, Field(description="Secret.")]
    path: Annotated[str, Field(description="The page that takes the token: `/#link=…`.")]
    expires_at: Time


class FollowedLink(BaseModel):
    """Token of a one-time link that a browser has opened."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=256)


class SignedOut(TypedDict):
    """Where the browser ends the session at the provider too."""

    provider_logout_url: str


class SignedIn(TypedDict):
    """Key of a person. It ends by itself, or by signing out."""

    key_id: str
    key: str
    person: str
    tenant: str
    expires_at: Time


async def show_offer(request: HttpRequest) -> Response:
    """Tell the page whether to offer the sign-in."""
    context_of(request).route = "v1.sign-in"
    body: SignInOffer = {"available": services_of(request).identity.sign_in is not None}
    return json_reply(body)


async def begin(request: HttpRequest) -> Response:
    """Begin a sign-in. Nothing is stored."""
    context_of(request).route = "v1.sign-in.begin"
    limit_anonymous(request)
    sign_in = _sign_in(request)
    values = sign_in.states.begin()
    url = await sign_in.provider.begin(_redirect_uri(request), values)
    body: BegunAtProvider = {"url": url, "state": values.state, "secret": values.secret}
    return json_reply(body)


async def finish(request: HttpRequest) -> Response:
    """End a sign-in: exchange the provider's code for a key of the person."""
    context_of(request).route = "v1.sign-in.finish"
    limit_anonymous(request)
    sign_in = _sign_in(request)
    callback = await read_model(request, ProviderAnswer, MAX_BODY_BYTES)
    with counted_failure(request, always=True):
        values = sign_in.states.check(callback.state, callback.secret)
        person = await sign_in.provider.finish(_redirect_uri(request), callback.code, values)
    return json_reply(await _signed_in(request, sign_in, person), 201)


async def begun_device(request: HttpRequest) -> Response:
    """Begin the sign-in of a program that has no browser. Nothing is stored."""
    context_of(request).route = "v1.sign-in.device"
    limit_anonymous(request)
    begun = await _sign_in(request).provider.begin_device()
    body: BegunDevice = {
        "device_code": begun.device_code,
        "user_code": begun.user_code,
        "url": begun.url,
        "url_with_code": begun.url_with_code or None,
        "valid_s": begun.valid_s,
        "ask_every_s": begun.ask_every_s,
    }
    return json_reply(body)


async def finished_device(request: HttpRequest) -> Response:
    """Ask whether the person has signed in, and get a key of that person then."""
    context_of(request).route = "v1.sign-in.device.finish"
    limit_anonymous(request)
    sign_in = _sign_in(request)
    device_answer = await read_model(request, DeviceAnswer, MAX_BODY_BYTES)
    with counted_failure(request, always=True):
        outcome = await sign_in.provider.finish_device(device_answer.device_code)
    if isinstance(outcome, Pending):
        pending: PendingDevice = {"pending": True, "slower": outcome.slower}
        return json_reply(pending, 202)
    return json_reply(await _signed_in(request, sign_in, outcome), 201)


async def _signed_in(request: HttpRequest, sign_in: SignIn, person: Person) -> SignedIn:
    """A new key of a person."""
    services = services_of(request)
    rights = allowed_rights(request, sign_in, person, always=True)
    valid = timedelta(seconds=services.config.sign_in.oidc_session_s)
    until = services.clock.now() + valid
    credential = await services.identity.keys.sign_in(
        person, rights, until, client_address(request)
    )
    return {
        "key_id": credential.id,
        "key": str(credential),
        "person": person.name,
        "tenant": rights.tenant,
        "expires_at": until.isoformat(),
    }


async def create_link(request: HttpRequest) -> Response:
    """Make a one-time link, which gives the browser that opens it first a key with the rights of
    the calling key."""
    context_of(request).route = "v1.sign-in.links"
    caller = await authenticate(request)
    new_link = await read_model(request, NewLink, MAX_BODY_BYTES)
    services = services_of(request)
    api_key = await services.identity.keys.find(caller.key_id)
    if api_key is None or api_key.person:
        raise Forbidden("A sign-in of a person offers no links. Use an API key.")
    until = services.clock.now() + timedelta(seconds=new_link.valid_s)
    token = await services.identity.keys.offer_link(actor_of(request), until)
    body: OneTimeLink = {
        "token": token,
        "path": f"/#link={token}",
        "expires_at": until.isoformat(),
    }
    return json_reply(body, 201)


async def redeem_link(request: HttpRequest) -> Response:
    """Exchange the token of a one-time link for a key. The link ends with it."""
    context_of(request).route = "v1.sign-in.links.take"
    limit_anonymous(request)
    link = await read_model(request, FollowedLink, MAX_BODY_BYTES)
    with counted_failure(request, always=True):
        credential = await services_of(request).identity.keys.take_link(
            link.token, client_address(request)
        )
    return json_reply(credential_body(credential), 201)


async def signed_out(request: HttpRequest) -> Response:
    """End the sign-in that the calling key is of. Unlike other keys, it revokes itself."""
    context_of(request).route = "v1.sign-in.end"
    caller = await authenticate(request)
    services = services_of(request)
    keys, sign_in = services.identity.keys, services.identity.sign_in
    api_key = await keys.find(caller.key_id)
    if api_key is None or not api_key.person:
        raise Forbidden("This key is not of a sign-in. Only a sign-in ends itself.")
    context_of(request).access = None  # it ends its own, and is answered: the provider may be slow
    await keys.revoke(caller.key_id, actor_of(request))
    if sign_in is None or not services.config.sign_in.oidc_provider_logout:
        return Response(status_code=204)
    url = await sign_in.provider.logout_url(_redirect_uri(request))
    if url is None:
        return Response(status_code=204)
    body: SignedOut = {"provider_logout_url": url}
    return json_reply(body)


OFFER = Operation(
    "getSignIn",
    "Say whether people can sign in",
    {200: answer("Whether they can.", SignInOffer)},
    key=False,
)
BEGIN = Operation(
    "beginSignIn",
    "Begin a sign-in at the provider",
    {200: answer("Where to send the browser.", BegunAtProvider)},
    errors=(404, 429),
    key=False,
)
FINISH = Operation(
    "finishSignIn",
    "End a sign-in, and get a key of the person",
    {201: answer("The key. Its secret is shown only once.", SignedIn)},
    errors=(401, 403, 404, 413, 422, 429),
    body=ProviderAnswer,
    key=False,
)
DEVICE = Operation(
    "beginDeviceSignIn",
    "Begin the sign-in of a program without a browser",
    {200: answer("Where a person enters which code.", BegunDevice)},
    errors=(400, 404, 429, 503),
    key=False,
)
FINISH_DEVICE = Operation(
    "finishDeviceSignIn",
    "Ask whether the person has signed in, and get a key of that person",
    {
        201: answer("The key. Its secret is shown only once.", SignedIn),
        202: answer("Not yet: ask again.", PendingDevice),
    },
    errors=(401, 403, 404, 413, 422, 429, 503),
    body=DeviceAnswer,
    key=False,
)
LINK = Operation(
    "createSignInLink",
    "Make a one-time link to the page. Needs the scope `tenant-admin`",
    {201: answer("The link. Its token is shown only once.", OneTimeLink)},
    errors=(400, 403, 413, 422),
    body=NewLink,
)
TAKE_LINK = Operation(
    "takeSignInLink",
    "Exchange the token of a one-time link for a key",
    {201: answer("The key. Its secret is shown only once.", CreatedKey)},
    errors=(400, 401, 413, 422, 429),
    body=FollowedLink,
    key=False,
)
END = Operation(
    "signOut",
    "End the sign-in that the key is of",
    {
        200: answer("It has ended here; at the provider it goes on.", SignedOut),
        204: Answer("It has ended."),
    },
)

ROUTES = [
    DocumentedRoute("/v1/sign-in", show_offer, {"GET": OFFER}, NO_KEY),
    DocumentedRoute("/v1/sign-in", begin, {"POST": BEGIN}, NO_KEY),
    DocumentedRoute("/v1/sign-in", signed_out, {"DELETE": END}, ANY_KEY),
    DocumentedRoute("/v1/sign-in/finish", finish, {"POST": FINISH}, NO_KEY),
    DocumentedRoute("/v1/sign-in/links", create_link, {"POST": LINK}, TENANT_ADMIN),
    DocumentedRoute("/v1/sign-in/links/take", redeem_link, {"POST": TAKE_LINK}, NO_KEY),
    DocumentedRoute("/v1/sign-in/device", begun_device, {"POST": DEVICE}, NO_KEY),
    DocumentedRoute("/v1/sign-in/device/finish", finished_device, {"POST": FINISH_DEVICE}, NO_KEY),
]


def _sign_in(request: HttpRequest) -> SignIn:
    sign_in = services_of(request).identity.sign_in
    if sign_in is None:
        raise NotFound("People cannot sign in here: DARKROOM_OIDC_ISSUER is not set.")
    return sign_in


def _redirect_uri(request: HttpRequest) -> str:
    """Address of the page, to which the provider sends the browser back."""
    return f"{origin_of(request)}/"
