"""Notices that a cloud takes a machine away, read from its metadata service.

Each cloud answers on an address that only the machine itself reaches. What is asked and answered is
documented in "Spot Instance interruption notices" (Amazon EC2), "Spot VMs: handle preemption"
(Google Compute Engine) and "Scheduled Events for Linux VMs" (Azure).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Protocol

import httpx2

from serve_app.domain.errors import DarkroomError, Misconfigured, Unavailable
from serve_app.domain.ports import Clock

LINK_LOCAL = "http://169.254.169.254"
GOOGLE = "http://metadata.google.internal"
TIMEOUT_S = 2.0
SHORT_NOTICE = timedelta(seconds=30)
"""Notice that Google and Azure give. Both may not say when the machine ends."""
TOKEN_TTL_S = 21_600
ENDS = frozenset({"Preempt", "Terminate"})
"""Types of Azure's events after which the machine is gone."""


@dataclass(frozen=True, slots=True)
class SpotNotice:
    """The machine ends."""

    at: datetime  # about when; UTC
    words: str  # what the cloud says


class NoticeSource(Protocol):
    """Metadata service of a cloud."""

    name: str
    every_s: float  # how often to ask

    def answers(self) -> bool:
        """Return True if this machine runs in this cloud."""
        ...

    def read(self) -> SpotNotice | None:
        """The notice, or None while there is none. Raises ``Unavailable`` if the service does not
        answer as documented."""
        ...


class AmazonNotices:
    """Amazon EC2: two minutes' notice. The token is that of the metadata service's version 2."""

    name = "aws"
    every_s = 5.0  # as Amazon recommends

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http
        self._token = ""

    def answers(self) -> bool:
        try:
            self._renew()
        except Unavailable:
            return False
        return True

    def read(self) -> SpotNotice | None:
        answer = self._get() if self._token else None
        if answer is None or answer.status_code == HTTPStatus.UNAUTHORIZED:
            self._renew()
            answer = self._get()
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        notice = _json(answer)
        at = _field(answer, lambda: datetime.fromisoformat(notice["time"]))
        return SpotNotice(at.astimezone(UTC), f"Amazon EC2 will {notice.get('action')} it")

    def _get(self) -> httpx2.Response:
        headers = {"x-aws-ec2-metadata-token": self._token}
        return _call(self._http, "GET", "/latest/meta-data/spot/instance-action", headers)

    def _renew(self) -> None:
        headers = {"x-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
        answer = _call(self._http, "PUT", "/latest/api/token", headers)
        if not answer.is_success or not answer.text:
            raise _unexpected_answer(answer)
        self._token = answer.text


class GoogleNotices:
    """Google Compute Engine: 30 s notice."""

    name = "gcp"
    every_s = 1.0

    def __init__(self, http: httpx2.Client, clock: Clock) -> None:
        self._http = http
        self._clock = clock

    def answers(self) -> bool:
        try:
            answer = self._get()
        except Unavailable:
            return False
        return answer.headers.get("metadata-flavor") == "Google"

    def read(self) -> SpotNotice | None:
        answer = self._get()
        if answer.text not in ("TRUE", "FALSE"):
            raise _unexpected_answer(answer)
        if answer.text == "FALSE":
            return None
        return SpotNotice(self._clock.now() + SHORT_NOTICE, "Google Compute Engine preempts it")

    def _get(self) -> httpx2.Response:
        path = "/computeMetadata/v1/instance/preempted"
        return _call(self._http, "GET", path, {"metadata-flavor": "Google"})


class AzureNotices:
    """Azure: at least 30 s notice, by events of which some are of other machines."""

    name = "azure"
    every_s = 1.0

    def __init__(self, http: httpx2.Client, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._machine = ""

    def answers(self) -> bool:
        try:
            return bool(self._own_name())
        except Unavailable:
            return False

    def read(self) -> SpotNotice | None:
        answer = self._get("/metadata/scheduledevents?api-version=2020-07-01")
        for event in _json(answer).get("Events", []):
            if event.get("EventType") in ENDS and self._own_name() in event.get("Resources", []):
                return SpotNotice(self._time_of(event), f"Azure: {event['EventType']}")
        return None

    def _own_name(self) -> str:
        if not self._machine:
            path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            answer = self._get(path)
            if not answer.is_success:
                raise _unexpected_answer(answer)
            self._machine = answer.text
        return self._machine

    def _time_of(self, event: dict[str, Any]) -> datetime:
        try:
            return parsedate_to_datetime(event["NotBefore"]).astimezone(UTC)
        except (KeyError, ValueError):  # empty once it has begun
            return self._clock.now() + SHORT_NOTICE

    def _get(self, path: str) -> httpx2.Response:
        return _call(self._http, "GET", path, {"metadata": "true"})


def source_of(cloud: str | None, url: str | None, clock: Clock) -> NoticeSource:
    """Metadata service of a cloud; None: of the cloud in which this machine runs.

    ``url``: address of the service, if it is another one. Raises ``Misconfigured``, also if no
    service answers.
    """
    sources: Sequence[NoticeSource] = (
        AmazonNotices(_client(url or LINK_LOCAL)),
        GoogleNotices(_client(url or GOOGLE), clock),
        AzureNotices(_client(url or LINK_LOCAL), clock),
    )
    for source in sources:
        if source.name == cloud or (cloud is None and source.answers()):
            return source
    names = ", ".join(candidate.name for candidate in sources)
    raise Misconfigured(
        f"No cloud's metadata service answers here. Name the cloud ({names}) to wait for it."
    )


def _client(url: str) -> httpx2.Client:
    # A proxy of the environment would reach another machine's service, or none.
    return httpx2.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)


def _call(http: httpx2.Client, method: str, path: str, headers: dict[str, str]) -> httpx2.Response:
    try:
        return http.request(method, path, headers=headers)
    except httpx2.HTTPError as error:
        raise Unavailable(
            f"The metadata service at {http.base_url} does not answer: {error!r}"
        ) from error


def _json(answer: httpx2.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise _unexpected_answer(answer)
    document = _field(answer, answer.json)
    if not isinstance(document, dict):
        raise _unexpected_answer(answer)
    return document


def _field(answer: httpx2.Response, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (KeyError, TypeError, ValueError) as error:
        raise _unexpected_answer(answer) from error


def _unexpected_answer(answer: httpx2.Response) -> DarkroomError:
    path, shown = answer.request.url.path, answer.text[:80].replace("\n", " ")
    return Unavailable(f"The metadata service answered {path} with {answer.status_code}: {shown}")
