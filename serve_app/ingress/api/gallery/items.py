"""What a gallery of the tenant's requests needs: files with thumbnails, favourites, counts by day,
and the deletion of many requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Literal, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import RequestActive, RequestNotFound
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import State
from serve_app.domain.timeframe import Timeframe
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import require_requests
from serve_app.ingress.http.json_schema import Url, one_of
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.http.time_buckets import END
from serve_app.ingress.http.time_range import time_range, zone_of
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.model_lookup import NO_ENDPOINT, allowed_endpoints
from serve_app.tenants.scopes import CANCEL, READ, Caller

MAX_MARKED, MAX_DELETED, MAX_DAYS = 500, 100, 400
DEFAULT_DAYS = timedelta(days=366)
MAX_BODY_BYTES = 1 << 16
KINDS = "image", "video", "audio"
POSTERS = frozenset(("poster", "posters", "waveform", "waveforms"))
"""Fields of outputs with images of the output's other files."""


class Thumbnail(TypedDict):
    """Small WebP of a file, at most 512 pixels long."""

    url: Url
    file_size: int
    width: int | None
    height: int | None


class OutputFile(TypedDict):
    """File of an output."""

    url: Url
    file_name: str
    content_type: str
    file_size: int
    width: int | None
    height: int | None
    poster: Annotated[
        bool,
        Field(description="True: an image of another file, such as the waveform of an audio file."),
    ]
    thumbnail: Annotated[
        Thumbnail | None,
        Field(description="Null: none was made, as of files from before this version."),
    ]


def output_files(outcome: Outcome | None, url: Callable[[str], str]) -> list[OutputFile]:
    """Files of an outcome; none without one. ``url``: of a key."""
    if outcome is None:
        return []
    fields = (outcome.output or {}).items()
    posters = {key for name, value in fields if name in POSTERS for key in _keys_in(value)}
    return [
        _output_file(artifact, url, poster=artifact.key in posters)
        for artifact in outcome.artifacts
    ]


def _keys_in(value: object) -> Iterator[str]:
    """Keys of a file in an output, or of a list of them."""
    files = cast("list[object]", value) if isinstance(value, list) else [value]
    for file in files:
        if isinstance(file, Mapping):
            yield str(cast("Mapping[str, object]", file).get("artifact"))


def _output_file(artifact: Artifact, url: Callable[[str], str], *, poster: bool) -> OutputFile:
    small = artifact.thumbnail
    return {
        "url": url(artifact.key),
        "file_name": artifact.key.rpartition("/")[2],
        "content_type": artifact.media_type,
        "file_size": artifact.size,
        "width": artifact.width,
        "height": artifact.height,
        "poster": poster,
        "thumbnail": None
        if small is None
        else {
            "url": url(small.key),
            "file_size": small.size,
            "width": small.width,
            "height": small.height,
        },
    }


def chosen_endpoints(request: HttpRequest, caller: Caller) -> Sequence[str]:
    """Endpoints of the parameters ``endpoint_id`` and ``kind``, among those that the caller may
    use; none: of all. If no endpoint fits, it is the name of none.

    ``Forbidden``: the call names an endpoint that the caller may not use.
    """
    ids = query.several(request, "endpoint_id")
    for endpoint_id in ids:
        caller.require_endpoint(endpoint_id)
    ids = ids or allowed_endpoints(services_of(request).catalog_of(caller), caller)
    kind = request.query_params.get("kind")
    if kind is None:
        return ids
    if kind not in KINDS:
        raise query.invalid("kind", f"should be one of {', '.join(KINDS)}", kind)
    endpoints = (entry.endpoint for entry in services_of(request).catalog_of(caller))
    chosen_ids = [
        endpoint.id
        for endpoint in endpoints
        if endpoint.kind == kind and (not ids or endpoint.id in ids)
    ]
    return chosen_ids or [NO_ENDPOINT]


def chosen_states(request: HttpRequest) -> Sequence[State]:
    """States of the parameter ``state``; none: all."""
    return [_state(value) for value in request.query_params.getlist("state")]


def _state(value: str) -> State:
    try:
        return State(value)
    except ValueError:
        raise query.invalid("state", f"should be one of {', '.join(State)}", value) from None


KIND = in_query(
    "kind", "Only requests of endpoints of the catalogue that make these.", one_of(*KINDS)
)

# Favourites.


class FavouriteChange(BaseModel):
    """Requests to mark as favourites, or whose marks to remove."""

    model_config = ConfigDict(extra="forbid")

    request_ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_MARKED)]
    favourite: bool


class FavouriteResult(TypedDict):
    request_id: str
    status: Literal["done", "not_found"]


class FavouriteResults(TypedDict):
    results: list[FavouriteResult]


calls = JsonCalls()
ROUTES = calls.routes


@calls.send(
    "/v1/requests/favourites",
    "setFavourites",
    "Mark requests as favourites, or remove the marks",
    FavouriteChange,
    READ,
    max_bytes=MAX_BODY_BYTES,
)
async def set_favourites(call: Call, change: FavouriteChange) -> FavouriteResults:
    """Idempotent."""
    ids = unique_ids(change.request_ids)
    await require_requests(call.request, call.caller, ids)
    done = await call.services.queue.gallery.set_favourites(
        call.caller.tenant, ids, favourite=change.favourite
    )
    return {
        "results": [
            {"request_id": request_id, "status": "done" if request_id in done else "not_found"}
            for request_id in ids
        ]
    }


def unique_ids(ids: Sequence[UUID]) -> list[str]:
    """The ids without repeats, in their order."""
    return list(dict.fromkeys(map(str, ids)))


# Deletion of many.


class RequestsToDelete(BaseModel):
    """Ended requests to delete."""

    model_config = ConfigDict(extra="forbid")

    request_ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_DELETED)]


class DeletedRequest(TypedDict):
    """Result for one request. Numbers of files: deleted, and to be deleted later."""

    request_id: str
    status: Annotated[
        Literal["deleted", "not_found", "active"],
        Field(description="`active`: it has not ended; cancel it first."),
    ]
    deleted_files: int
    later_files: int


class DeletedRequests(TypedDict):
    results: list[DeletedRequest]


@calls.send(
    "/v1/requests/delete",
    "deleteRequests",
    "Delete many ended requests, each as `DELETE /v1/requests/{request_id}` does",
    RequestsToDelete,
    CANCEL,
    max_bytes=MAX_BODY_BYTES,
)
async def delete_many(call: Call, body: RequestsToDelete) -> DeletedRequests:
    """One after the other."""
    ids = unique_ids(body.request_ids)
    await require_requests(call.request, call.caller, ids)
    return {"results": [await _delete_request(call, request_id) for request_id in ids]}


async def _delete_request(call: Call, request_id: str) -> DeletedRequest:
    result: DeletedRequest = {
        "request_id": request_id,
        "status": "deleted",
        "deleted_files": 0,
        "later_files": 0,
    }
    try:
        tenant = call.caller.tenant
        files = await submission.delete(call.services, tenant, request_id, call.actor)
    except RequestNotFound:
        return {**result, "status": "not_found"}
    except RequestActive:
        return {**result, "status": "active"}
    later = sum(why is not None for why in files.values())
    return {**result, "deleted_files": len(files) - later, "later_files": later}


# Counts by day.


class DayCount(TypedDict):
    """Day with ended requests."""

    date: Annotated[str, Field(description="In the time zone of the call, such as 2026-01-31.")]
    requests: int


class DayCounts(TypedDict):
    days: Annotated[list[DayCount], Field(description="The latest first, without empty ones.")]


@calls.call(
    "/v1/requests/days",
    "countRequestsByDay",
    "Count the tenant's ended requests by the day of their submit, the latest first",
    READ,
    errors=(422,),
    parameters=(
        in_query("endpoint_id", "Only these endpoints.", list[str]),
        in_query("state", "Only requests that ended in these states.", list[State]),
        KIND,
        in_query("start", "A date or a time. Default: 366 days before the end."),
        END,
        in_query("timezone", "Time zone of the days. Default: UTC."),
    ),
)
async def count_by_day(call: Call) -> DayCounts:
    request, caller, services = call.request, call.caller, call.services
    zone = await in_cpu_thread(zone_of, request)
    span = time_range(request, services.clock.now(), zone, DEFAULT_DAYS)
    starts = [Timeframe.DAY.start(span.start, zone)]
    while (following := Timeframe.DAY.next(starts[-1], zone)) < span.end:
        starts.append(following)
        if len(starts) > MAX_DAYS:
            what = f"should be at most {MAX_DAYS} days before the end"
            raise query.invalid("start", what, span.start.isoformat())
    counts = await services.queue.gallery.count_by_day(
        caller.tenant,
        [span.start, *starts[1:], span.end],
        chosen_endpoints(request, caller),
        chosen_states(request),
    )
    day_counts = [
        (start.astimezone(zone).date(), count)
        for start, count in zip(starts, counts, strict=True)
        if count
    ]
    return {
        "days": [
            {"date": day.isoformat(), "requests": count} for day, count in reversed(day_counts)
        ]
    }
