"""Commands that show the state of a running Darkroom: its pools and its requests."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx2

from serve_app.cli.connection.client import ApiFailure, Client
from serve_app.cli.connection.resources import table
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import counted, echo, in_lines, one_line, shorten
from serve_app.cli.generation.files import outputs
from serve_app.cli.generation.viewer import NO_VIEWER, open_in_viewer
from serve_app.domain.errors import Misconfigured
from serve_app.domain.request import State
from serve_app.resources.warm_targets import WARM_TARGETS

# ``darkroom logs`` and ``darkroom open``: the log of a request, and its output files.

POLL_INTERVAL_S = 0.5


def request_path(request_id: str) -> str:
    """Path of a request in the API. A typed id can lead to no other path."""
    return f"/v1/requests/{quote(request_id, safe='')}"


def line_of(line: Mapping[str, Any]) -> str:
    """Log line as text: time of this machine's zone, level and message."""
    at = datetime.fromisoformat(line["at"]).astimezone().replace(tzinfo=None)
    return f"{at.isoformat(timespec='milliseconds')} {line['level']:<7} {in_lines(line['message'])}"


def show(
    server: Server,
    request_id: str,
    *,
    follow: bool,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print a request's log; with ``follow``, print new lines until the request has ended."""
    shown = 0
    with Client(server) as client:
        while True:
            answer = (client.poll if follow else client.get)(request_path(request_id))
            for line in answer["log"][shown:]:
                echo(json.dumps(line) if as_json else line_of(line))
            shown = max(shown, len(answer["log"]))
            if not follow or State(answer["state"]).final:
                return
            sleep(POLL_INTERVAL_S)


def open_files(
    server: Server,
    request_id: str,
    launch: Callable[[Sequence[str]], bool] = open_in_viewer,
    *,
    as_json: bool = False,
) -> None:
    """Open the output files of a request in the desktop's viewer and print their URLs.

    Raises ``ApiFailure`` if the request has not succeeded or has no files, and ``Misconfigured``
    if nothing on this machine opens them.
    """
    with Client(server) as client:
        answer = client.get(request_path(request_id))
        if answer["state"] != State.SUCCEEDED:
            raise ApiFailure(
                f"The request is {answer['state']}, so there is nothing to open. "
                f"Run `darkroom logs {request_id}` for details."
            )
        output = client.get(f"/queue/{answer['endpoint_id']}/requests/{answer['request_id']}")
    files = list(outputs(output))
    if not files:
        raise ApiFailure(
            "The output of the request has no files. Run `darkroom requests show` to see it."
        )
    urls = [file["url"] for file in files]
    echo(json.dumps({"request_id": request_id, "urls": urls}) if as_json else "\n".join(urls))
    # A viewer would open any file and any program that a scheme stands for.
    if not all(url.startswith(("http://", "https://")) for url in urls):
        raise ApiFailure("These are no addresses of the web, so they are not opened.")
    if not launch(urls):
        raise Misconfigured(f"{NO_VIEWER} The URLs above work in any browser.")


def status(server: Server, *, as_json: bool) -> None:
    """Print the readiness, and if Darkroom answers reads its pools and unplaceable replicas."""
    answer: dict[str, Any] = {"pools": {}, "replicas": [], "unplaceable": {}, "warm": []}
    with Client(server) as client:
        ready, parts = client.readiness()
        if parts["status"] != "unavailable":
            answer = client.get("/v1/status")
    if as_json:
        echo(json.dumps({"url": client.url, "ready": ready, **parts, **answer}))
        return
    echo(f"{client.url}: {'ready' if ready else 'not ready'}")
    for name, state in parts["checks"].items():
        echo(f"  {name}: {state}")
    for name, pool in answer["pools"].items():
        replicas = [replica for replica in answer["replicas"] if replica["pool"] == name]
        for line in pool_lines(name, pool, replicas):
            echo(line)
    for line in table(WARM_TARGETS.table_columns, answer["warm"]) if answer["warm"] else ():
        echo(line)
    for sentence in (
        *answer["unplaceable"].values(),
        *quarantines(answer["replicas"]),
        *canaries(answer["pools"]),
    ):
        echo(sentence)


def quarantines(replicas: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """A sentence for each node in quarantine, of the replicas that ``/v1/status`` shows."""
    # An older server does not say it.
    return [
        *dict.fromkeys(replica["quarantine"] for replica in replicas if replica.get("quarantine"))
    ]


def canaries(
    pools: Mapping[str, Mapping[str, Any]], *, only_returned: bool = False
) -> Sequence[str]:
    """A sentence for each canary, of the pools that ``/v1/status`` shows."""
    return [
        f"Canary {name} of {pool['canary_of']}: {pool['canary'] or 'no attempt has ended yet'}."
        for name, pool in pools.items()
        if pool.get("canary_of") and (pool["returned"] or not only_returned)
    ]


def pool_label(name: str, pool: Mapping[str, Any]) -> str:
    """Name of a pool, with the one whose requests it takes."""
    # An older server does not say them.
    if before := pool.get("overflow_of"):
        return f"{name} (overflow of {before})"
    return f"{name} (canary of {beside})" if (beside := pool.get("canary_of")) else name


def pool_lines(
    name: str, pool: Mapping[str, Any], replicas: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Lines for a pool: its queue, its replicas by stage, and what each holds and loads."""
    stages = Counter(member["stage"] for member in replicas)
    shown = ", ".join(f"{count} {stage}" for stage, count in stages.items()) or "none"
    target = pool["target_replicas"]
    suffix = "" if target in (None, len(replicas)) else f"; target: {target}"
    yield (
        f"pool {pool_label(name, pool)}: {pool['queued']} queued, {pool['running']} running; "
        f"replicas: {shown}{suffix}"
    )
    for replica in replicas:
        parts = [
            f"hot {', '.join(replica['hot'])}" if replica["hot"] else "",
            f"in host memory {', '.join(replica['warm'])}" if replica["warm"] else "",
            replica["detail"],
        ]
        if summary := "; ".join(part for part in parts if part):
            on = ", ".join(
                filter(None, (replica["node"], replica["device"], memory_words(replica)))
            )
            yield f"  {replica['replica_id']}{f' ({on})' if on else ''}: {summary}"


def memory_words(replica: Mapping[str, Any]) -> str:
    """Memory of a replica's device or process; empty if it is not known."""
    used, total = replica.get("memory_used"), replica.get("memory_total")  # not of older servers
    return f"{used / 1e9:.1f} of {total / 1e9:.1f} GB" if used is not None and total else ""


def requests(
    server: Server,
    *,
    states: tuple[str, ...],
    endpoint_id: str | None,
    tenant: str | None,
    since: datetime | None,
    until: datetime | None,
    before: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print the latest requests. Times without a zone are in this machine's time zone."""
    with Client(server) as client:
        answer = client.get(
            "/v1/requests",
            state=list(states) or None,
            endpoint_id=endpoint_id,
            tenant=tenant,
            since=since and since.astimezone().isoformat(),
            until=until and until.astimezone().isoformat(),
            before=before,
            limit=limit,
        )
    if as_json:
        echo(json.dumps(answer))
        return
    rows = answer["requests"]
    width = max((len(item["endpoint_id"]) for item in rows), default=0)
    for row in rows:
        owner = f"{row['tenant']}  " if tenant else ""
        echo(
            f"{row['request_id']}  {row['state']:<9}  {local(row['created_at'])}  "
            f"{row['endpoint_id']:<{width}}  {owner}{shorten(row['prompt'] or '')}".rstrip()
        )
    if not rows:
        echo("There are no such requests.", err=True)


def local(at: str) -> str:
    """Time of an answer in this machine's time zone, to the second."""
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}"


def request(server: Server, request_id: str, *, as_json: bool) -> None:
    """Print a request: what it is, how it goes or went, its input and its log."""
    with Client(server) as client:
        answer = client.get(request_path(request_id))
    if as_json:
        echo(json.dumps(answer))
        return
    for line in details(answer):
        echo(line)


def details(record: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a request."""
    yield f"{record['request_id']}  {record['state']}"
    for name, value in _facts(record):
        yield f"  {name:<9}  {one_line(value)}"
    if fields := record["input"]:
        yield "input"
        width = max(map(len, fields))
        for name, value in fields.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"  {one_line(name):<{width}}  {shorten(shown, 200)}"
    if record["log"]:
        yield "log"
        yield from (f"  {line_of(line)}" for line in record["log"])
    if record["state"] == State.SUCCEEDED:
        yield f"`darkroom open {record['request_id']}` opens its files."


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "endpoint", record["endpoint_id"]
    yield "tenant", f"{record['tenant']}, priority {record['priority']}"
    yield "submitted", local(record["created_at"])
    if record["started_at"]:
        replica = f" on {record['replica_id']}" if record["replica_id"] else ""
        yield "started", f"{local(record['started_at'])}{replica}, attempt {record['attempt']}"
    if record["finished_at"]:
        ran = "" if record["run_s"] is None else f", after {record['run_s']:.1f} s of work"
        yield "ended", f"{local(record['finished_at'])}{ran}"
    if waiting := record["waiting"]:
        detail = f": {waiting['detail']}" if waiting["detail"] else ""
        yield "waits", f"{waiting['position']} before it, {waiting['reason']}{detail}"
    if progress := record["progress"]:
        yield "progress", f"{progress['stage']} {progress['step']}/{progress['steps'] or '?'}"
    if error := record["error"]:
        yield "error", f"{error['message']} ({error['code']})"
    for name in ("reuses", "follows"):
        if record[name]:
            yield name, record[name]
    if record["forgotten"]:
        yield "deleted", ", ".join(record["forgotten"])


def cancel(server: Server, request_id: str, *, tenant: str | None, as_json: bool) -> None:
    query = "" if tenant is None else f"?{httpx2.QueryParams({'tenant': tenant})}"
    with Client(server) as client:
        answer = client.put(f"{request_path(request_id)}/cancel{query}")
    echo(json.dumps(answer) if as_json else answer["verdict"])


def delete(server: Server, request_id: str, *, as_json: bool) -> None:
    with Client(server) as client:
        answer = client.delete(request_path(request_id))
    echo(
        json.dumps(answer)
        if as_json
        else f"Deleted, with {counted(answer['deleted_files'], 'file')}."
    )
