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
        try:
            response = self._http.get("/readyz")
        except httpx.TransportError as error:
            raise Misconfigured(f"Nothing answers at {self.url} ({error}).") from None
        return response.is_success, response.json()

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
        response = self._http.get(url)
        response.raise_for_status()
        return response.content

    def preview(self, url: str) -> bytes | None:
        """A picture of a running request; None while there is none, or no more."""
        response = self._http.get(url)
        return response.content if response.status_code == 200 else None  # or 204, or 404

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise Misconfigured(f"Nothing answers at {self.url} ({error}).") from None
        if response.is_error:
            raise ApiFailure(_message(response))
        return response.json() if response.content else None


def _message(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return f"{response.status_code}: {response.text[:200]}"
    if isinstance(body, dict):
        return str(body.get("message") or body.get("detail") or body.get("status") or body)
    return str(body)
