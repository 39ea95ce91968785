"""The CLI's way to a running Darkroom: its public HTTP API, like any other client's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Self

import httpx

from serve_app.domain.errors import DarkroomError, Misconfigured

POLL_S = 0.2  # the server holds a status until something has changed, so this is the least pause


class Reached(Protocol):
    """Where a Darkroom answers, and the key for it: an ``Installation``, or what a user named."""

    def url(self) -> str: ...

    def key(self) -> str: ...


class ApiFailure(DarkroomError):
    """Darkroom answered with an error; its message is the server's."""

    code = "api_failure"


class Client:
    """Calls a Darkroom with its own key; for a ``with``. ``httpx`` errors become sentences."""

    def __init__(self, installation: Reached) -> None:
        self.url = installation.url()
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Key {installation.key()}"},
            timeout=30,
            trust_env=False,  # it runs here; a proxy of the environment has no part in it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def put(self, path: str) -> Any:
        return self._call("PUT", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, json=body)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether Darkroom is ready, and what its parts say."""
        response = self._response("GET", "/readyz")
        answer = _json_of(response)
        if not isinstance(answer, dict) or "checks" not in answer:
            raise Misconfigured(
                f"{self.url} answers {response.status_code}, but not Darkroom's ingress: it is "
                "starting, or it has ended and is started again."
            )
        return response.is_success, answer

    def submit(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._call("POST", f"/queue/{endpoint}", json=body))

    def follow(self, submitted: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield statuses until the request is completed; the last one is the completed one."""
        while True:
            status = dict(self._call("GET", submitted["status_url"], params={"logs": "1"}))
            yield status
            if status["status"] == "COMPLETED":
                return

    def download(self, url: str) -> bytes:
        response = self._response("GET", url)
        if response.is_error:
            raise ApiFailure(f"{url} could not be fetched: {_message(response)}")
        return response.content

    def preview(self, url: str) -> bytes | None:
        """A picture of a running request; None while there is none, or no more."""
        response = self._response("GET", url)
        return response.content if response.status_code == 200 else None  # or 204, or 404

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._response(method, path, **arguments)
        if response.is_error:
            raise ApiFailure(_message(response))
        if not response.content:
            return None
        if (answer := _json_of(response)) is None:
            raise ApiFailure(f"What {self.url} answers is no JSON: {response.text[:200]}")
        return answer

    def _response(self, method: str, url: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, url, **arguments)
        except httpx.TransportError as error:
            where = url if "://" in url else self.url
            raise Misconfigured(f"Nothing answers at {where} ({error}).") from None


def _json_of(response: httpx.Response) -> Any:
    """None where it is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def _message(response: httpx.Response) -> str:
    body = _json_of(response)
    if body is None:
        return f"{response.status_code}: {response.text[:200]}"
    if isinstance(body, dict):
        return str(body.get("message") or body.get("detail") or body.get("status") or body)
    return str(body)
