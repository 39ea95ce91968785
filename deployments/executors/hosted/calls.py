"""Calls of a provider over HTTP, and what their ends mean: accepted, surely not, or unknown."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Protocol, Self, cast
from urllib.parse import urlsplit

import httpx2

from serve_app.domain.errors import DarkroomError, HostedFailed, InvalidInput
from serve_app.domain.executors.hosted import HostedCall
from serve_app.domain.progress import Progress
from serve_app.domain.retry_after import parse_retry_after
from serve_app.options.hosted import HostedEndpoint

CONNECT_S = 10.0
SUBMIT_S = 60.0
INLINE_S = 600.0  # of a call whose answer is the result
READ_S = 30.0
MAX_RETRY_AFTER_S = 60.0
CALLS_OF_A_CLIENT = 8
"""Repeatable calls that one HTTP client makes at once. httpx2 looks at all connections of a client,
several times, for each call: with 200 in one client, a poll took 11 ms of CPU, and 1 ms so."""
KEPT_S = 30.0  # several times the longest pause between two looks at a job
MAX_BODY = 64 * 2**20  # bytes of an answer
MAX_ID = 500  # characters of a provider's id of a job

Part = tuple[str | None, str | bytes] | tuple[str | None, str | bytes, str]
"""Part of a form: file name, content, and perhaps its media type."""

NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)
"""Errors before the first byte of a request was written."""


class CallRefused(Exception):
    """The provider has surely not accepted the call, and another one would end as this one."""

    def __init__(self, error: DarkroomError) -> None:
        super().__init__(error.message)
        self.error = error


class Busy(Exception):
    """The provider has surely not accepted the call, and may accept another one later."""

    def __init__(self, why: str, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class Unknown(Exception):
    """The call may have been accepted: its answer was lost, or is not usable."""


class Away(Exception):
    """A call that is safe to repeat had no usable answer."""


@dataclass(frozen=True, slots=True)
class HostedFile:
    """A file of a result: on the provider's server, or in the answer itself."""

    url: str = ""
    content: bytes | None = None
    media_type: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    with_key: bool = False  # it is read with the provider's key
    raw: Any = None  # as it is in the provider's answer; None: there is no such form


@dataclass(frozen=True, slots=True)
class HostedJob:
    """A request that a provider has accepted."""

    id: str  # the provider's, or the call's if the answer was the result
    place: Mapping[str, Any]
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HostedState:
    """State of a job. ``result`` has ``HostedFile`` in place of files."""

    result: Mapping[str, Any] | None = None  # None: it goes on
    progress: Progress | None = None
    lines: tuple[tuple[str, str], ...] = ()  # all of its log so far: level and text


class ProviderApi(Protocol):
    """A provider's protocol, with one key. Calls but ``submit`` raise ``Away``, and may be
    repeated."""

    finds: bool
    """False: a call whose answer was lost cannot be found."""

    wire: Wire

    async def submit(self, call: HostedCall, fields: Mapping[str, Any]) -> HostedJob:
        """Send a request, once. Raises ``CallRefused``, ``Busy`` or ``Unknown``."""
        ...

    async def find(
        self, call: HostedCall, fields: Mapping[str, Any], since: datetime
    ) -> list[HostedJob]:
        """Jobs that may be those of a call whose answer was lost, the oldest first. None is
        older than ``since``."""
        ...

    async def poll(self, job: HostedJob) -> HostedState:
        """State of a job. Raises ``DarkroomError`` if it has failed."""
        ...

    async def cancel(self, job: HostedJob) -> None:
        """Ask the provider to end a job."""
        ...


class ProviderClient:
    """HTTP client for the calls of providers. It repeats and redirects none, and keeps no cookies,
    because the calls are of many tenants. Use it in an ``async with``, or call ``aclose``.

    ``once``: for calls that cost money. Each has a connection of its own, because a server may
    close an idle one while a call is written to it. ``repeatable``: for the others, with
    connections that are used again: of thousands that wait, each asks every few seconds.
    """

    def __init__(self) -> None:
        # The pool's slots limit the calls. A call whose answer is its result keeps its connection
        # for minutes, so a smaller limit here would fail others that the provider would take.
        self._trusted = httpx2.create_ssl_context()
        self.once = self._client(kept=0)
        self._repeatable: list[_Shared] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self.once.aclose()
        for client in self._repeatable:
            await client.http.aclose()

    @asynccontextmanager
    async def repeatable(self) -> AsyncGenerator[httpx2.AsyncClient]:
        """Client for one call that may be repeated. The first ones are used first, so that few
        calls need few connections."""
        shared = next(
            (client for client in self._repeatable if client.calls < CALLS_OF_A_CLIENT), None
        )
        if shared is None:
            shared = _Shared(self._client(kept=CALLS_OF_A_CLIENT))
            self._repeatable.append(shared)
        shared.calls += 1
        try:
            yield shared.http
        finally:
            shared.calls -= 1

    def _client(self, kept: int) -> httpx2.AsyncClient:
        limits = httpx2.Limits(
            max_connections=None, max_keepalive_connections=kept, keepalive_expiry=KEPT_S
        )
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        return httpx2.AsyncClient(
            limits=limits, cookies=no_cookies, follow_redirects=False, verify=self._trusted
        )


@dataclass
class _Shared:
    """HTTP client for some calls at once."""

    http: httpx2.AsyncClient
    calls: int = 0  # under way


class Wire:
    """HTTP calls with a provider's key. A key is sent to the provider's own servers only."""

    def __init__(
        self,
        http: ProviderClient,
        spec: HostedEndpoint,
        authorization: str,
        output_schema: Mapping[str, Any],
    ) -> None:
        self.spec = spec
        self.output_schema = output_schema
        self._http = http
        self._headers = {"authorization": authorization}
        self._origins = {_origin(spec.url), _origin(spec.history_url)}

    def is_own(self, url: object) -> bool:
        return isinstance(url, str) and _origin(url) in self._origins

    async def post_once(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        read_s: float = SUBMIT_S,
        form: Mapping[str, Part] | None = None,
    ) -> Mapping[str, Any]:
        """Send a request that costs money, with a JSON object or the parts of a ``form``. The JSON
        object of the answer."""
        limits = httpx2.Timeout(CONNECT_S, read=read_s, write=SUBMIT_S)
        sent = {**self._headers, **(headers or {})}
        try:
            content: dict[str, Any] = {"files": form} if form is not None else {"json": dict(body)}
            answer = await self._http.once.post(url, headers=sent, timeout=limits, **content)
        except NEVER_SENT as error:
            raise Busy(f"{self._name} cannot be reached: {_text(error)}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unknown(f"the answer of {self._name} was lost: {_text(error)}") from error
        status = answer.status_code
        if status == 429 and _code(answer) == "insufficient_quota":  # OpenAI's: no wait helps
            what = f"{self._name} asks for payment ({status}): {error_text(answer)}"
            raise CallRefused(HostedFailed(what))
        if status == 429:
            why = f"{self._name} takes no more requests now: {error_text(answer)}"
            wait_s = parse_retry_after(answer.headers.get("retry-after", ""))
            raise Busy(why, None if wait_s is None else min(wait_s, MAX_RETRY_AFTER_S))
        if 300 <= status < 500 and status != 408:
            raise CallRefused(self.error_of(answer))
        document = _json(answer)
        if status >= 300 or not isinstance(document, dict):
            raise Unknown(f"{self._name} answered {status}: {error_text(answer)}")
        return cast("Mapping[str, Any]", document)

    async def get(self, url: str, **query: Any) -> httpx2.Response:
        """Read something. Any answer but those that ask for another try."""
        # Parameters, even none, would replace those that a URL has, such as that of a next page.
        return await self.again("GET", url, params=query or None)

    async def again(self, method: str, url: str, **more: Any) -> httpx2.Response:
        """A call that may be repeated. Raises ``Away``."""
        if not self.is_own(url):
            raise HostedFailed(f"{self._name} names another server, {_origin(url)}, for its job.")
        limits = httpx2.Timeout(CONNECT_S, read=READ_S, write=READ_S)
        try:
            async with self._http.repeatable() as http:
                answer = await http.request(
                    method, url, headers=self._headers, timeout=limits, **more
                )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Away(f"{self._name} cannot be reached: {_text(error)}") from error
        if answer.status_code in (408, 425, 429, 502, 503, 504):
            raise Away(f"{self._name} answered {answer.status_code}: {error_text(answer)}")
        return answer

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncGenerator[httpx2.Response]:
        """The answer of a file on the provider's own server."""
        if not self.is_own(url):
            raise HostedFailed(f"{self._name} names another server, {_origin(url)}, for its file.")
        limits = httpx2.Timeout(CONNECT_S, read=READ_S)
        async with (
            self._http.repeatable() as http,
            http.stream("GET", url, headers=self._headers, timeout=limits) as answer,
        ):
            yield answer

    async def json(self, url: str, **query: Any) -> Mapping[str, Any]:
        """A JSON object. Raises ``Away``, and ``HostedFailed`` for a refusal."""
        answer = await self.get(url, **query)
        document = _json(answer)
        if answer.status_code >= 500 or (answer.is_success and not isinstance(document, dict)):
            raise Away(f"{self._name} answered {answer.status_code}: {error_text(answer)}")
        if not answer.is_success:
            raise self.error_of(answer)
        return cast("Mapping[str, Any]", document)

    def error_of(self, answer: httpx2.Response) -> DarkroomError:
        """Error of the request for an answer that refuses it."""
        status, what = answer.status_code, error_text(answer)
        if status in (401, 403):
            return HostedFailed(
                f"{self._name} refused the key in the secret {self.spec.secret} ({status}): {what}"
            )
        if status == 402:
            return HostedFailed(f"{self._name} asks for payment ({status}): {what}")
        if status == 404:
            return HostedFailed(f"{self._name} does not know {self.spec.endpoint}: {what}")
        if status in (400, 422):
            field = field_of(_json(answer))
            return InvalidInput.of_field(field, what) if field else InvalidInput(what)
        return HostedFailed(f"{self._name} answered {status}: {what}")

    @property
    def _name(self) -> str:
        return self.spec.account


def error_text(answer: httpx2.Response) -> str:
    """Sentence of an answer, as providers write errors."""
    document = _json(answer)
    if isinstance(document, dict):
        fields = cast("dict[str, Any]", document)
        for name in ("detail", "message", "error", "title"):
            value = fields.get(name)
            if isinstance(value, str) and value:
                return value[:500]
            if isinstance(value, dict):
                inner = cast("dict[str, Any]", value).get("message")
                if isinstance(inner, str):
                    return inner[:500]
            if isinstance(value, list) and value and isinstance(value[0], dict):
                first = cast("dict[str, Any]", value[0])
                return str(first.get("msg", first))[:500]
    return answer.text[:200] or "no message"


def field_of(refusal: Any) -> str:
    """Field that a refusal names, as fal's and OpenAI's do; empty: none."""
    fields = cast("dict[str, Any]", refusal) if isinstance(refusal, dict) else {}
    detail = fields.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = cast("dict[str, Any]", detail[0]).get("loc")
        if isinstance(place, list):
            parts = [
                str(part) for part in cast("list[Any]", place) if part not in ("body", "input")
            ]
            return ".".join(parts)
    error = fields.get("error")
    param = cast("dict[str, Any]", error).get("param") if isinstance(error, dict) else None
    return param if isinstance(param, str) else ""


def _code(answer: httpx2.Response) -> Any:
    document = _json(answer)
    error = cast("dict[str, Any]", document).get("error") if isinstance(document, dict) else None
    return cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None


def covers(theirs: Any, ours: Any) -> bool:
    """Check that an input in a provider's list is ours: it may have more fields."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        inner = cast("Mapping[str, Any]", theirs)
        fields = cast("Mapping[str, Any]", ours).items()
        return all(name in inner and covers(inner[name], value) for name, value in fields)
    return theirs == ours


def job_id(answer: Mapping[str, Any], name: str) -> str:
    """The provider's id of a job in the answer that accepts it. Raises ``Unknown`` if there is none
    that could be kept: the database has no NUL, no half of a surrogate pair and no long ids."""
    id_ = answer.get(name)
    if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID or not id_.isprintable():
        raise Unknown(f"the answer has no {name}")
    return id_


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Objects of a list in an answer. What has another form is left out, because a job that is paid
    must not fail by it."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def document_of(answer: httpx2.Response) -> Any:
    """JSON of an answer. Raises ``ValueError``."""
    if len(answer.content) > MAX_BODY:
        raise ValueError(f"the answer has more than {MAX_BODY >> 20} MiB")
    try:
        return answer.json()
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None


def _json(answer: httpx2.Response) -> Any:
    try:
        return document_of(answer)
    except ValueError:
        return None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
