"""HTTP client of the CLI: it uses the public API of a running Darkroom, like any other client."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx2

from serve_app.cli.connection.answered import note_answer
from serve_app.cli.connection.remote import Remote
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, one_line, size_text
from serve_app.cli.connection.whole_file import whole_file
from serve_app.domain.errors import DarkroomError, Misconfigured

T = TypeVar("T")

RESTART_S = 60.0  # the time that a restart of the server, or of a proxy before it, may take
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # between the tries meanwhile; then always the last one
MOST_BYTES = 256 * 1024**2
"""Of a response, also of an output whose files are in it."""
MOST_FILE_BYTES = 4 * MOST_BYTES
"""Of a file that is kept in the memory. Longer ones are in storage, and are opened by their URL."""
ANSWER_ID = "x-fal-request-id"
"""Header of each answer of Darkroom. Another server may answer any JSON to a command that only asks
for a change, and it is not done."""
PASSED_ON = frozenset({502, 504})
"""Statuses of a proxy that may have passed the call on."""
RESTARTING = PASSED_ON | {503}
"""Statuses of a proxy whose server is away, and of a server whose database is."""


class ApiFailure(DarkroomError):
    """Error response of Darkroom. The message is the server's.

    ``fields``: locations in the input and what is wrong there, if that is the error. ``status`` of
    the response; None if there was none.
    """

    code = "api_failure"

    def __init__(
        self,
        message: str,
        fields: Iterable[tuple[tuple[str, ...], str]] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.fields = tuple(fields)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.fields, self.status)


class ServerAway(Misconfigured):
    """Lost connection, or none."""


def is_lost(error: DarkroomError, statuses: Collection[int] = PASSED_ON) -> bool:
    """True if the server may have done what the call asked for: there is no answer, or one of
    ``statuses``."""
    return isinstance(error, ServerAway) or getattr(error, "status", None) in statuses


class Client:
    """HTTP client of one Darkroom, with its own key; use it in a ``with`` statement.

    Transport errors of ``httpx2`` become ``ServerAway``, error responses ``ApiFailure``.
    """

    def __init__(self, server: Server) -> None:
        self.url = server.url()
        key = server.key()
        if not (key.isascii() and key.isprintable()):
            raise Misconfigured(
                "The API key has characters that no API key has. Copy the whole key again, and "
                "nothing else."
            )
        try:
            self._http = httpx2.Client(
                base_url=self.url,
                headers={"Authorization": f"Key {key}"} if key else {},  # none before a sign-in
                timeout=30,
                verify=_certificate_authorities(server),
                # Proxies of the environment do not apply to this machine.
                trust_env=isinstance(server, Remote) and not server.is_this_machine,
            )
        except httpx2.InvalidURL as error:
            raise Misconfigured(
                f"{self.url} is not the address of a Darkroom: {error}. Use http(s)://HOST[:PORT]."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._call("GET", path, params=_query_params(query))

    def poll(self, path: str, **query: Any) -> Any:
        """State of what is being waited for: ``get`` that outlasts a restart of the server."""
        return self.patiently(lambda: self.get(path, **query))

    def patiently(self, call: Callable[[], T], statuses: Collection[int] = RESTARTING) -> T:
        """Result of ``call``, which changes nothing if it is repeated. It is, for up to
        ``RESTART_S`` seconds, while the server does not answer or answers one of ``statuses``, and
        standard error says so."""
        pauses = chain(PAUSES_S, repeat(PAUSES_S[-1]))
        deadline: float | None = None
        while True:
            try:
                result = call()
            except (ServerAway, ApiFailure) as error:
                over = deadline is not None and time.monotonic() >= deadline
                if over or not is_lost(error, statuses):
                    raise
                if deadline is None:
                    deadline = time.monotonic() + RESTART_S
                    _say(f"{error.message} Trying again for up to {RESTART_S:g} s.")
                time.sleep(next(pauses))
            else:
                if deadline is not None:
                    _say(f"{self.url} answers again.")
                return result

    def text(self, path: str) -> str:
        """Body of a response that is not JSON."""
        response = self._response("GET", path)
        if not response.is_success:
            raise ApiFailure(_message(response), status=response.status_code)
        return response.text

    @contextmanager
    def lines(self, path: str, **query: Any) -> Generator[Iterator[str]]:
        """Lines of a response that may be longer than the memory."""
        with self._open_stream(path, query) as response:
            yield _lines(response)

    @contextmanager
    def chunks(self, path: str, **query: Any) -> Generator[Iterator[bytes]]:
        """Chunks of a response that may be longer than the memory."""
        with self._open_stream(path, query) as response:
            yield response.iter_bytes()

    @contextmanager
    def _open_stream(self, path: str, query: Mapping[str, Any]) -> Generator[httpx2.Response]:
        try:
            with self._stream("GET", path, params=_query_params(query)) as response:
                _refuse_layers(response)
                if not response.is_success:
                    raise ApiFailure(
                        _message(_read_body(response, MOST_BYTES)), status=response.status_code
                    )
                yield response
        except httpx2.RequestError as error:
            raise Misconfigured(
                f"The response of {self.url} ended early ({error}). Check that Darkroom is running "
                "there, and repeat the command."
            ) from None

    def put(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Any:
        return self._call("PUT", path, json=body, headers=headers, params=_query_params(query))

    def post(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> Any:
        return self._call("POST", path, json=body, headers=headers)

    def post_zip(self, path: str, content: bytes) -> Any:
        """POST the bytes of a zip file."""
        return self._call(
            "POST", path, content=content, headers={"content-type": "application/zip"}
        )

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("PATCH", path, json=body)

    def delete(self, path: str, **query: Any) -> Any:
        return self._call("DELETE", path, params=_query_params(query))

    def upload(self, path: Path) -> str:
        """Upload a file, and return its URL. ``Misconfigured``: it cannot be read."""
        new = {"file_name": path.name, "content_type": "application/octet-stream"}
        try:
            with path.open("rb") as file:
                offered = self.post("/rest/storage/upload/initiate", new)
                url = httpx2.URL(offered["upload_url"])
                target = url.raw_path.decode()  # at the address that we use
                self._call("PUT", target, content=file, timeout=None)
        except OSError as error:
            raise Misconfigured(f"{path} cannot be read: {error.strerror or error}.") from None
        return str(offered["file_url"])

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Readiness of Darkroom, and the body of ``/readyz`` with the state of each part.

        Raises ``Misconfigured`` if the response does not come from Darkroom's ingress.
        """
        response = self._response("GET", "/readyz")
        answer = _json_of(response)
        if not isinstance(answer, dict) or "checks" not in answer:
            raise Misconfigured(
                f"{self.url} answers {response.status_code}, but not Darkroom's ingress. The "
                "ingress is starting or restarting. Try again in a few seconds."
            )
        return response.is_success, answer

    def submit(
        self, endpoint: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Submit a request. If the response is lost, the call is repeated with its idempotency key,
        so there is one request."""
        path, once = f"/queue/{endpoint}", {"Idempotency-Key": str(uuid4())}
        sent = {**(headers or {}), **once}
        return dict(self.patiently(lambda: self.post(path, body, sent), PASSED_ON))

    def follow(self, submitted: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield statuses until the request has completed. The last status is the completed one."""
        while True:
            status = dict(self.poll(submitted["status_url"], logs="1"))
            yield status
            if status["status"] == "COMPLETED":
                return

    def output(self, submitted: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
        """Output of a request whose ``last`` status is here. ``ApiFailure``: it failed."""
        # A failure may be a 503 or 504 itself, which no patience changes.
        read = self.get if last.get("error") else self.poll
        return dict(read(submitted["response_url"]))

    def download(self, url: str) -> bytes:
        """Content of a URL. Another server than Darkroom does not get the key."""
        with self._file(url) as response:
            return _read_body(response, MOST_FILE_BYTES).content

    def post_form(self, path: str, name: str, content: bytes, fields: dict[str, str]) -> Any:
        """Send a file in a form, as its field ``file``."""
        return self._call("POST", path, files={"file": (name, content)}, data=fields, timeout=600)

    def save(self, url: str, target: Path) -> None:
        """Write the content of a URL to a file, completely or not at all. ``Misconfigured``: it
        cannot be written."""
        with self._file(url) as response, whole_file(target) as file:
            file.writelines(response.iter_bytes())

    def preview(self, url: str) -> bytes | None:
        """Preview image of a running request; None before the first one and after the end."""
        response = self._response("GET", url)
        return response.content if response.status_code == 200 else None  # or 204, or 404

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._response(method, path, **arguments)
        if not response.is_success:
            raise ApiFailure(_message(response), _fields(response), response.status_code)
        if ANSWER_ID not in response.headers:
            raise ApiFailure(
                f"{self.url} answered {response.status_code}, but not as Darkroom: its answer has "
                f"no {ANSWER_ID}. Check the address. A proxy before Darkroom has to pass this "
                "header on."
            )
        if not response.content:
            return None
        if (answer := _json_of(response)) is None:
            raise ApiFailure(f"The response of {self.url} is not JSON: {response.text[:200]}")
        return answer

    @contextmanager
    def _file(self, url: str) -> Generator[httpx2.Response]:
        """Response with the file at a URL. Storage may answer with a redirect to it."""
        try:
            request = self._file_request(url)
            with closing(self._http.send(request, stream=True, follow_redirects=True)) as response:
                _refuse_layers(response)
                if response.status_code != 200:
                    what = (
                        f"{url} could not be fetched: {_message(_read_body(response, MOST_BYTES))}"
                    )
                    raise ApiFailure(what, status=response.status_code)
                yield response
        except httpx2.ConnectError as error:
            raise self._unreachable(url, error) from None
        except httpx2.TransportError as error:
            raise ServerAway(f"{url} could not be fetched ({error}).") from None
        except (httpx2.RequestError, httpx2.InvalidURL) as error:  # such as redirects in a circle
            raise Misconfigured(f"{url} could not be fetched ({error}).") from None

    def _file_request(self, url: str) -> httpx2.Request:
        """Request for a file. A result may name any server, such as one of an app's choice, and
        only Darkroom's own gets the key: ``httpx2`` drops it when a redirect leaves that one."""
        request = self._http.build_request("GET", url)
        if not self._is_own(request.url):
            request.headers.pop("Authorization", None)
        return request

    def _is_own(self, url: httpx2.URL) -> bool:
        own = httpx2.URL(self.url)
        return (url.scheme, url.netloc) == (own.scheme, own.netloc)

    def _at_own_address(self, url: str) -> str:
        """Path of a URL that the server has named, such as of a status: at the address that we use,
        which may not be the one that the server knows. The key goes nowhere else."""
        try:
            named = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise ApiFailure(f"{self.url} has named an address that is none: {error}.") from None
        return url if named.is_relative_url or self._is_own(named) else named.raw_path.decode()

    def _response(self, method: str, url: str, **arguments: Any) -> httpx2.Response:
        """Response with its body. ``ApiFailure``: it is longer than any of Darkroom's."""
        try:
            with self._stream(method, self._at_own_address(url), **arguments) as response:
                _refuse_layers(response)
                note_answer(self.url)
                return _read_body(response, MOST_BYTES)
        except httpx2.TransportError as error:
            raise self._unreachable(url, error) from None
        except httpx2.RequestError as error:  # such as a body that cannot be decompressed
            raise ApiFailure(f"The response of {self.url} cannot be read ({error}).") from None

    @contextmanager
    def _stream(self, method: str, url: str, **arguments: Any) -> Generator[httpx2.Response]:
        try:
            with self._http.stream(method, url, **arguments) as response:
                kind = response.headers.get("content-type", "")
                if response.is_success and kind.startswith("text/html"):
                    raise ApiFailure(
                        f"{self.url} answered a page in HTML, which is not from Darkroom. A proxy "
                        "may ask for a sign-in: open the address in a browser."
                    )
                yield response
        except httpx2.InvalidURL as error:  # such as one of 64 KiB
            raise Misconfigured(f"An argument cannot be sent: {error}. Nothing was done.") from None

    def _unreachable(self, url: str, error: httpx2.TransportError) -> ServerAway:
        where = url if "://" in url else self.url
        return ServerAway(
            f"Nothing answers at {where} ({error}). Check the address, and that Darkroom is "
            "running there."
        )


def _read_body(response: httpx2.Response, most: int) -> httpx2.Response:
    """The response, with its body read. ``ApiFailure``: that has more bytes than ``most``."""
    chunks: list[bytes] = []
    size = 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise ApiFailure(
                f"The response of {response.url} is longer than {size_text(most)}. Check that "
                "Darkroom is running there, and ask for less at once."
            )
    headers = [(k, v) for k, v in response.headers.multi_items() if k != "content-encoding"]
    return httpx2.Response(
        response.status_code, headers=headers, content=b"".join(chunks), request=response.request
    )


def _lines(response: httpx2.Response) -> Iterator[str]:
    """Lines of a response, none of which is longer than a response may be."""
    rest = b""
    for chunk in response.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
        if len(rest) > MOST_BYTES:
            raise ApiFailure(f"A line of {response.url} is longer than {size_text(MOST_BYTES)}.")
    if rest:
        yield rest.decode(errors="replace")


def _refuse_layers(response: httpx2.Response) -> None:
    """Raise ``ApiFailure`` for a body that was compressed several times: a few bytes of it fill the
    memory at once."""
    if "," in response.headers.get("content-encoding", ""):
        raise ApiFailure(f"The response of {response.url} is compressed more than once.")


def _say(text: str) -> None:
    """Print a line on standard error, below a progress bar that may be there."""
    below = "\n" if sys.stderr.isatty() else ""
    echo(f"{below}{one_line(text)}", err=True)


def _query_params(query: Mapping[str, Any]) -> dict[str, Any] | None:
    """Query parameters that have a value. None if there are none: httpx2 would replace those of the
    path by an empty object."""
    return {name: value for name, value in query.items() if value is not None} or None


def _certificate_authorities(server: Server) -> ssl.SSLContext | bool:
    """Authorities whose certificates are accepted."""
    if not isinstance(server, Remote) or server.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=server.ca_file)
    except OSError as error:  # also ssl.SSLError
        raise Misconfigured(
            f"The authority of {server.address} in {server.ca_file} cannot be read: {error}. "
            "Log in again with another --ca-file."
        ) from None


def _json_of(response: httpx2.Response) -> Any:
    """Parsed body; None if it is not JSON."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _message(response: httpx2.Response) -> str:
    body = _json_of(response)
    if body is None:
        to = response.headers.get("location")
        return f"{response.status_code}: {f'see {to}' if to else response.text}"[:200]
    if isinstance(body, dict):
        if isinstance(error := body.get("error"), dict):  # OpenAI's format
            return str(error.get("message") or error)
        return str(body.get("message") or body.get("detail") or body.get("status") or body)
    return str(body)


def _fields(response: httpx2.Response) -> Iterator[tuple[tuple[str, ...], str]]:
    """Locations and messages of an error about the input, without the prefix ``body``."""
    body = _json_of(response)
    detail = body.get("detail") if isinstance(body, dict) else None
    for error in detail if isinstance(detail, list) else ():
        if not isinstance(error, dict):
            return
        place = tuple(str(part) for part in error.get("loc", ())[1:])
        if not place:
            return
        yield place, str(error.get("msg", ""))
