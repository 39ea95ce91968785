"""``darkroom top``: a live view of pools, replicas, loaded weights, queue and throughput."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click
from prometheus_client.parser import text_string_to_metric_families

from serve_app.cli.commands.requests import canaries, pool_label, quarantines
from serve_app.cli.connection import options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.numbers import FiniteNumber
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo, printable
from serve_app.domain.errors import DarkroomError

INTERVAL_S = 2.0
FORGET_S = 30.0
"""Time after which an ingress that answered no more is left out of the throughput."""
MAX_LANES = 10  # longest queues that are shown
MAX_EVENTS = 5  # latest starts and ends that are shown

_PROCESS = "darkroom_notification_seconds_created"  # differs between ingress processes
_COUNTED = "darkroom_requests_total", "darkroom_steps_total"

Rates = Mapping[tuple[str, str], float]
"""Events a second: of requests by endpoint and state, of steps by pool and ``steps``."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """Counters of one ingress process."""

    at: float
    counts: Rates


class RateMeter:
    """Rates of the counters of ``/metrics``.

    Each reading may come from another ingress replica, so a rate is that of the last two readings
    of the same one, and the sum is over all of them.
    """

    def __init__(self) -> None:
        self._last: dict[str, _Reading] = {}
        self._rates: dict[str, Rates] = {}

    def read(self, metrics: str, now: float) -> None:
        """Add the text of ``/metrics``, read at ``now``, in seconds of a monotonic clock."""
        process, counts = _counters(metrics)
        last = self._last.get(process)
        if last is not None and now > last.at:
            self._rates[process] = {
                key: (count - last.counts.get(key, 0.0)) / (now - last.at)
                for key, count in counts.items()
            }
        self._last[process] = _Reading(now, counts)
        for gone in [key for key, sample in self._last.items() if sample.at < now - FORGET_S]:
            del self._last[gone]
            self._rates.pop(gone, None)

    def rates(self) -> Rates | None:
        """Sum over the ingress processes; None before any of them was read twice."""
        if not self._rates:
            return None
        summed: Counter[tuple[str, str]] = Counter()
        for rate in self._rates.values():
            summed.update(rate)
        return summed


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a Darkroom."""

    url: str
    ready: bool
    status: Mapping[str, Any]  # the answer of ``/v1/status``
    lanes: Sequence[Mapping[str, Any]]  # of ``/v1/queue``
    rates: Rates | None

    def as_json(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "ready": self.ready,
            **self.status,
            "lanes": list(self.lanes),
            "per_minute": [
                {"endpoint": endpoint, "state": state, "requests": rate * 60}
                for (endpoint, state), rate in sorted((self.rates or {}).items())
                if state != "steps"
            ],
            "steps_per_second": {
                pool: rate for (pool, kind), rate in (self.rates or {}).items() if kind == "steps"
            },
        }


def look(client: Client, throughput: RateMeter, now: float) -> Seen:
    """Ask Darkroom for all that the view shows."""
    ready, parts = client.readiness()
    throughput.read(client.text("/metrics"), now)
    status = client.get("/v1/status") | {"checks": parts["checks"]}
    return Seen(client.url, ready, status, client.get("/v1/queue")["lanes"], throughput.rates())


def lines(seen: Seen) -> Iterator[str]:
    """The view as text."""
    yield f"{seen.url}: {'ready' if seen.ready else 'not ready'}"
    for name, state in seen.status["checks"].items():
        if state != "ok":
            yield f"  {name}: {state}"
    yield from seen.status["unplaceable"].values()
    yield from quarantines(seen.status["replicas"])
    yield from canaries(seen.status["pools"])
    replicas, warm = _replicas(seen.status["replicas"]), _warm(seen.status["warm"])
    events = _events(seen.status.get("events", ()))  # an older server does not say it
    for rows in (_pools(seen), replicas, warm, _queue(seen), _endpoints(seen), events):
        if len(rows) > 1:
            yield ""
            yield from _table(rows)


def _pools(seen: Seen) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("POOL", "QUEUED", "RUNNING", "OLDEST", "REPLICAS", "TARGET", "BOUNDS", "STEPS/S")
    ]
    for name, pool in seen.status["pools"].items():
        of_pool = [
            replica["stage"] for replica in seen.status["replicas"] if replica["pool"] == name
        ]
        stages = [f"{count} {stage}" for stage, count in sorted(Counter(of_pool).items())]
        least, most = pool["min_replicas"], pool["max_replicas"]
        steps = None if seen.rates is None else seen.rates.get((name, "steps"), 0.0)
        rows.append(
            (
                *(pool_label(name, pool), str(pool["queued"]), str(pool["running"])),
                f"{pool['oldest_wait_s']:.0f} s",
                ", ".join(stages) or "none",
                "-" if pool["target_replicas"] is None else str(pool["target_replicas"]),
                "-" if most is None else f"{least} to {most}",
                "-" if steps is None else f"{steps:.1f}",
            )
        )
    return rows


def _replicas(replicas: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("REPLICA", "POOL", "NODE", "GPU", "STAGE", "SLOTS", "WEIGHTS")]
    for replica in replicas:
        parts = [
            ", ".join(replica["hot"]),
            f"in memory: {', '.join(replica['warm'])}" if replica["warm"] else "",
            replica["detail"],
        ]
        weights = "; ".join(part for part in parts if part) or "none"
        place = replica["pool"], replica["node"] or "-", replica["device"] or "-"
        rows.append(
            (replica["replica_id"], *place, replica["stage"], str(replica["slots"]), weights)
        )
    return rows


def _warm(targets: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("KEPT", "POOL", "LEVEL", "READY", "UNTIL", "PROBLEM")]
    for target in targets:
        ready = f"{target['ready_replicas']} of {target['replicas']}"
        until = "-" if target["until"] is None else target["until"][:16]
        what = target["endpoint_id"] or "replicas", target["pool"] or "-", target["level"]
        rows.append((*what, ready, until, "; ".join(target["problems"])))
    return rows


def _queue(seen: Seen) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("TENANT", "POOL", "QUEUED", "RUNNING", "OLDEST")]
    for lane in sorted(seen.lanes, key=lambda entry: -entry["queued"])[:MAX_LANES]:
        oldest = "-" if lane["oldest_s"] is None else f"{lane['oldest_s']:.0f} s"
        numbers = str(lane["queued"]), str(lane["running"])
        rows.append((lane["tenant"], lane["pool"], *numbers, oldest))
    return rows


def _endpoints(seen: Seen) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("ENDPOINT", "SUBMITTED/MIN", "DONE/MIN", "FAILED/MIN")]
    rates = seen.rates or {}
    moving = {key[0] for key, rate in rates.items() if key[1] != "steps" and rate > 0}
    for endpoint in sorted(moving):
        failed = sum(rates.get((endpoint, state), 0.0) for state in ("failed", "expired"))
        submitted, done = (rates.get((endpoint, state), 0.0) for state in ("queued", "succeeded"))
        rows.append((endpoint, *(f"{rate * 60:.1f}" for rate in (submitted, done, failed))))
    return rows


def _events(events: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("TIME", "PROCESS", "NODE", "EVENT")]
    for entry in events[:MAX_EVENTS]:
        what = " ".join(part for part in (entry["kind"], entry["pool"], entry["name"]) if part)
        event = ": ".join(part for part in (entry["event"], entry["reason"]) if part)
        rows.append((entry["at"][:19], what, entry["node"] or "-", event))
    return rows


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows with aligned columns: the first and the last left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [all(_is_number(row[at]) for row in rows[1:]) for at in range(len(widths))]
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.removesuffix(" s").replace(".", "", 1).isdigit()


class Screen:
    """A terminal's alternate screen. Each view is written over the last one at once, so that
    nothing flickers, and the terminal is as it was before after the ``with`` statement."""

    def __init__(self, stream: TextIO, size: Callable[[], tuple[int, int]]) -> None:
        """``size``: columns and rows of the terminal, now."""
        self._stream = stream
        self._size = size

    def __enter__(self) -> Screen:
        self._write("\x1b[?1049h\x1b[?25l")  # alternate screen, no cursor
        return self

    def __exit__(self, *_: object) -> None:
        self._write("\x1b[?25h\x1b[?1049l")

    def show(self, view: Sequence[str]) -> None:
        """Show the lines that fit."""
        columns, rows = self._size()
        shown = [f"{line[:columns]}\x1b[K" for line in view[:rows]]
        self._write("\x1b[H" + "\n".join(shown) + "\x1b[J")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def watch(
    client: Client,
    screen: Screen,
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Show the view until Ctrl-C. While Darkroom does not answer, show why."""
    throughput = RateMeter()
    try:
        with screen:
            while True:
                try:
                    view = [*lines(look(client, throughput, now()))]
                except DarkroomError as error:
                    view = [error.message]
                screen.show([printable(line) for line in view])
                sleep(interval_s)
    except KeyboardInterrupt:
        return


def look_once(
    client: Client,
    interval_s: float,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Seen:
    """Look twice, because a throughput needs two readings."""
    throughput = RateMeter()
    throughput.read(client.text("/metrics"), now())
    sleep(interval_s)
    return look(client, throughput, now())


def _counters(metrics: str) -> tuple[str, Rates]:
    """Identity of the ingress process that wrote the metrics, and its counters."""
    text = "\n".join(
        line for line in metrics.splitlines() if line.startswith((*_COUNTED, _PROCESS))
    )
    process, counts = "", dict[tuple[str, str], float]()
    for family in text_string_to_metric_families(text + "\n"):
        for name, labels, value, *_ in family.samples:
            if name == _PROCESS:
                process = repr(value)
            elif name in _COUNTED:
                subject = labels.get("endpoint") or labels.get("pool", "")
                counts[subject, labels.get("state", "steps")] = value
    return process, counts


@click.command("top")
@options.server
@click.option(
    "--interval",
    "interval_s",
    type=FiniteNumber(0.1, 3600),
    metavar="SECONDS",
    default=INTERVAL_S,
    show_default=True,
    help="Seconds between two views.",
)
@click.option("--once", is_flag=True, help="Print one view and end, as without a terminal.")
@options.as_json
def top_command(server: Server, interval_s: float, *, once: bool, as_json: bool) -> None:
    """Watch pools, replicas, loaded weights, the queue and the throughput. Ctrl-C ends it."""
    with Client(server) as client:
        if once or as_json or not sys.stdout.isatty():
            seen = look_once(client, interval_s)
            for line in [json.dumps(seen.as_json())] if as_json else lines(seen):
                echo(printable(line))
            return
        watch(client, Screen(sys.stdout, shutil.get_terminal_size), interval_s)
