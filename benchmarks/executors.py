"""What an executor adds to a request, and what requests cost that wait for a hosted provider.

    python -m benchmarks.executors [--seconds 4] [--rounds 3] [--clients 1 16]
        [--only apps passed waiting] [--waiting 100 1000 3000] [--settle 25]

One `darkroom serve` as it comes. Measurements of the same thing are made in turns, A B A B …, from
one process of load, and what is compared are the medians of the rounds. The machine may be busy
with other things, so each line has its load average, and only the ratios mean anything.

``apps``: `run` of an app that does nothing, in a process of its own, against `run` of the endpoint
that does nothing in its replica.

``passed``: `run` of an endpoint that is passed through to fal (an entry ``fal-ai/*``). The provider
is a local server that speaks fal's queue and has ended a request when it accepts it
(``benchmarks.fal_provider``). It stands against the endpoint that does nothing; against the same
server by the executor's own client without Darkroom, which submits, polls once and reads the result
on a connection each; and beside the plainest call of that server: one POST, answered by the result.
All inputs differ, because equal ones are sent to fal one after the other.

``waiting``: so many requests wait at the provider, in as few processes as the settings allow (3,000
slots each). Measured for at least 10 s, once all polls are at their longest pause of 5 s
(``--settle``): memory of these processes in MiB more than before (RSS), their CPU seconds a second
beside those without a request, and polls a second as the provider counts them. Then the provider
ends all, and the run fails unless each request was sent once, has ended well with its own answer,
and is billed once. A lease that moves to another process, which goes on with the same job, is no
failure and is counted: on a machine that is too small, leases run out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil

from benchmarks.cpu import CpuByRole, seconds_of, summary
from benchmarks.fal_provider import KEY
from benchmarks.load import Figures, MakeRequest, measure, post
from benchmarks.overhead import MODELS, PROBE, median_of, show
from deployments.executors.hosted.calls import ProviderClient, Wire
from deployments.executors.hosted.executor import CallPauses
from deployments.executors.hosted.fal import FalQueue
from serve_app.domain.executors.hosted import CallState, HostedCall
from serve_app.domain.request import State
from serve_app.options.hosted import HostedEndpoint
from serve_app.settings.pools import MAX_HOSTED_SLOTS
from tests.cluster.darkroom import ROOT, Darkroom, clean_environment, eventually
from tests.cluster.executor_calls import PASSED

APP = Path(__file__).with_name("noop_app.py")
POLL_S = CallPauses().poll[1]  # longest pause between two polls of a request
SUBMITS_AT_ONCE = 16
BUSY = (429, 503)  # a client submits again, with the same idempotency key
PARTS = ("apps", "passed", "waiting")
NOTHING = {"steps": 0}
NUMBERS = count(1)
"""Number of each request of the provider: no two inputs are equal."""

ENTRY = "/v1/models/entries/fal-ai/*"
SECRET = "/v1/secrets/PROVIDER_KEY?installation=true"  # noqa: S105 a path
ENDED = """
SELECT r.state, count(*), count(u.request_id),
       count(*) FILTER (WHERE r.outcome->'output'->>'number' = r.input->>'number')
FROM requests r LEFT JOIN usage u ON u.request_id = r.id
WHERE r.id = ANY(%s::uuid[]) GROUP BY 1
"""
MOVED = "SELECT coalesce(sum(attempt - 1), 0) FROM requests WHERE id = ANY(%s::uuid[])"


class Provider:
    """A provider in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.origin = process.stdout.readline().strip()
        self.http = httpx2.Client(base_url=self.origin, timeout=60)

    def counts(self) -> Mapping[str, int]:
        """Calls so far. Raises ``RuntimeError`` if some were not those that are measured."""
        counts = self.http.get("/counts").raise_for_status().json()
        wrong = {kind: counts[kind] for kind in ("sent_twice", "lists", "refused") if counts[kind]}
        if wrong:
            raise RuntimeError(f"The provider got calls that nothing here explains: {wrong}.")
        return counts

    def release(self) -> None:
        self.http.post("/release").raise_for_status()


@contextmanager
def running_provider() -> Generator[Provider]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fal_provider"],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Provider(process)
        finally:
            process.terminate()


@contextmanager
def running_darkroom(provider: Provider, replicas: int, *, apps: bool) -> Generator[Darkroom]:
    """A Darkroom that passes endpoints of fal's through to ``provider`` by so many processes.
    ``apps``: with the app that does nothing."""
    pools = {
        "noop": {"families": ["probe", "long", "parked"], "slots": 64, "num_cpus": 0.1},
        "hosted": {
            "families": ["fal"],
            "slots": MAX_HOSTED_SLOTS,
            "num_cpus": 0.1,
            "min_replicas": replicas,
            "max_replicas": replicas,
        },
    }
    if apps:
        pools["apps"] = {"families": ["python"], "slots": 64, "num_cpus": 0.1}
    families = json.dumps({"probe": PROBE, "long": PROBE, "parked": PROBE})
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        darkroom = Darkroom(data, pools, families=families, models=str(MODELS))
        try:
            darkroom.start()
            _add_passed(darkroom, provider.origin)
            if apps:
                deployed = darkroom.command("deploy", str(APP))
                if deployed.returncode:
                    raise RuntimeError(deployed.stderr)
            yield darkroom
            darkroom.stop()
        finally:
            darkroom.clear_away()


def _add_passed(darkroom: Darkroom, origin: str) -> None:
    schema = {"type": "object", "additionalProperties": True}
    options = {
        "secrets": ["PROVIDER_KEY"],
        "hosted": {"endpoint": "*", "url": origin, "history_url": origin},
        "input_schema": schema,
        "output_schema": schema,
    }
    entry = {"family": "fal", "schema": "json", "options": options}
    darkroom.http.put(SECRET, json={"value": KEY}).raise_for_status()
    darkroom.http.put(ENTRY, json=entry).raise_for_status()


def numbered_request_maker(path: str, origin: str, key: str) -> MakeRequest:
    """Maker of calls whose inputs all differ."""
    host = urlsplit(origin).netloc

    def make() -> bytes:
        body = json.dumps({**NOTHING, "number": next(NUMBERS)}).encode()
        return post(path, host, body, Authorization=f"Key {key}")

    return make


def measure_calls(path: str, origin: str, key: str, clients: int, seconds: float) -> Figures:
    """Figures of POSTs to a path, each of which is answered by the result."""
    place = urlsplit(origin)
    assert place.hostname is not None
    assert place.port is not None
    make = numbered_request_maker(path, origin, key)
    figures = measure(place.hostname, place.port, make, clients, seconds)
    if figures.errors:
        raise RuntimeError(f"{figures.errors} calls of {path} failed.")
    return figures


def queued_at_provider(origin: str, clients: int, seconds: float) -> Figures:
    """Figures of fal's queue without Darkroom, by the client of the executor."""
    took = asyncio.run(_queued(origin, clients, seconds))
    cuts = statistics.quantiles(took, n=100)
    return Figures(len(took) / seconds, 1000 * cuts[49], 1000 * cuts[98], errors=0)


async def _queued(origin: str, clients: int, seconds: float) -> list[float]:
    spec = HostedEndpoint(
        provider="fal",
        endpoint=PASSED,
        secret="PROVIDER_KEY",  # noqa: S106  # its name
        url=origin,
        history_url=origin,
    )
    call = HostedCall("call", CallState.ACCEPTED, "", PASSED, 0.0)  # the client does not look at it
    took: list[float] = []
    end = time.perf_counter() + seconds
    async with ProviderClient() as http:
        queue = FalQueue(Wire(http, spec, f"Key {KEY}", {}))

        async def again_and_again() -> None:
            while (began := time.perf_counter()) < end:
                number = next(NUMBERS)
                job = await queue.submit(call, {**NOTHING, "number": number})
                while (state := await queue.poll(job)).result is None:
                    pass
                if state.result["number"] != number:
                    raise RuntimeError(f"{job.id} has the result {state.result}.")
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(again_and_again() for _ in range(clients)))
    return took


class Bench:
    """Measurements of a running Darkroom."""

    def __init__(self, darkroom: Darkroom, provider: Provider, options: argparse.Namespace) -> None:
        self._darkroom = darkroom
        self._provider = provider
        self._seconds: float = options.seconds
        self._rounds: int = options.rounds
        self._clients: Sequence[int] = options.clients
        self._settle_s: float = options.settle

    def apps(self) -> None:
        self._ready("apps/noop")
        for clients in self._clients:
            noop, app = self._in_turns(
                lambda n=clients: self._run("test/noop", n),
                lambda n=clients: self._run("apps/noop", n),
            )
            show(f"run, {clients} clients", noop)
            show(f"run of an app, {clients} clients", app, noop)
            self._print_cpu("apps/noop", clients)

    def compare_pass_through(self) -> None:
        self._ready(PASSED)
        origin = self._provider.origin
        for clients in self._clients:
            plain, queue, noop, passed = self._in_turns(
                lambda n=clients: measure_calls("/run/noop", origin, KEY, n, self._seconds),
                lambda n=clients: queued_at_provider(origin, n, self._seconds),
                lambda n=clients: self._run("test/noop", n),
                lambda n=clients: self._run(PASSED, n),
            )
            show(f"provider, one POST, {clients} clients", plain)
            show(f"provider's queue, {clients} clients", queue, plain)
            show(f"run, {clients} clients", noop)
            show(f"run passed through, {clients} clients", passed, noop)
            show("- against the provider's queue", passed, queue)
            self._print_cpu(PASSED, clients)
        self._provider.counts()

    def waiting(self, number: int, replicas: int) -> None:
        processes = self._hosted(replicas)
        self._ready(PASSED)
        idle = self._load(processes)
        ids = asyncio.run(self._submitted(number))
        eventually(
            lambda: self._provider.counts()["waiting"] == number,
            f"{number} requests wait at the provider",
            within_s=1800,
        )
        time.sleep(self._settle_s)
        busy = self._load(processes)
        self._provider.release()
        began = time.monotonic()
        ended = State.SUCCEEDED.value, number, number, number
        eventually(lambda: self._darkroom.sql(ENDED, ids) == [ended], f"all are {ended}", 1800)
        took_s = time.monotonic() - began
        self._provider.counts()
        ((moved,),) = self._darkroom.sql(MOVED, ids)
        grown = busy.mib - idle.mib
        print(
            f"{number} wait in {replicas} processes: {grown:.0f} MiB more than {idle.mib:.0f},\n"
            f"    {1024 * grown / number:.1f} KiB each; {busy.cpu:.2f} CPU seconds a second,\n"
            f"    {idle.cpu:.2f} without; {busy.polls:.0f} polls a second;\n"
            f"    all answered once, {took_s:.1f} s after the provider had ended them;\n"
            f"    {moved} leases moved to another process meanwhile",
            flush=True,
        )

    def _run(self, endpoint: str, clients: int) -> Figures:
        darkroom = self._darkroom
        return measure_calls(f"/run/{endpoint}", darkroom.url, darkroom.key, clients, self._seconds)

    def _ready(self, endpoint: str) -> None:
        """Run a request, so that no process starts while something is measured."""
        body = {**NOTHING, "number": next(NUMBERS)}
        answer = self._darkroom.http.post(f"/run/{endpoint}", json=body, timeout=600)
        if answer.status_code != 200:
            raise RuntimeError(f"{endpoint} answered {answer.status_code}: {answer.text}")

    def _in_turns(self, *runs: Callable[[], Figures]) -> list[Figures]:
        """The medians of all, measured alternately."""
        rounds = [[run() for run in runs] for _ in range(self._rounds)]
        return [median_of(figures) for figures in zip(*rounds, strict=True)]

    def _print_cpu(self, endpoint: str, clients: int) -> None:
        """One more measurement, in which the CPU time of every process is counted."""
        spent = CpuByRole(self._darkroom)
        spent.start()
        figures = self._run(endpoint, clients)
        print(f"    {endpoint}: {summary(spent.per_call(figures.rate * self._seconds))}")

    def _hosted(self, replicas: int) -> list[psutil.Process]:
        def started() -> list[psutil.Process]:
            processes = self._darkroom.replicas("hosted")
            return processes if len(processes) == replicas else []

        return eventually(started, f"{replicas} processes of hosted providers")

    def _load(self, processes: Sequence[psutil.Process]) -> Load:
        polls, spent = self._provider.counts()["polls"], seconds_of(processes)
        began = time.monotonic()
        # Requests that were submitted together are polled together, so whole rounds count.
        time.sleep(POLL_S * max(2, math.ceil(self._seconds / POLL_S)))
        passed_s = time.monotonic() - began
        return Load(
            mib=sum(process.memory_info().rss for process in processes) / 2**20,
            cpu=(seconds_of(processes) - spent) / passed_s,
            polls=(self._provider.counts()["polls"] - polls) / passed_s,
        )

    async def _submitted(self, number: int) -> list[str]:
        """Ids of requests that wait at the provider."""
        headers = {"Authorization": f"Key {self._darkroom.key}"}
        limits, left = httpx2.Limits(max_connections=SUBMITS_AT_ONCE), iter(range(number))
        ids: list[str] = []
        async with httpx2.AsyncClient(
            base_url=self._darkroom.url, headers=headers, limits=limits, timeout=60
        ) as http:

            async def again_and_again() -> None:
                for _ in left:
                    body = {**NOTHING, "number": next(NUMBERS), "wait": True}
                    again = {"Idempotency-Key": str(body["number"])}
                    while True:
                        answer = await http.post(f"/queue/{PASSED}", json=body, headers=again)
                        if answer.status_code not in BUSY:
                            break
                        await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
                    ids.append(answer.raise_for_status().json()["request_id"])

            await asyncio.gather(*(again_and_again() for _ in range(SUBMITS_AT_ONCE)))
        return ids


@dataclass(frozen=True)
class Load:
    """``cpu``: seconds a second of all processes. ``polls``: a second, as the provider counts."""

    mib: float
    cpu: float
    polls: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--waiting", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--settle", type=float, default=25.0, help="seconds before a measurement")
    options = parser.parse_args()
    waiting = sorted(options.waiting) if "waiting" in options.only else []
    in_one = [depth for depth in waiting if depth <= MAX_HOSTED_SLOTS]
    with running_provider() as provider:
        with running_darkroom(provider, 1, apps="apps" in options.only) as darkroom:
            bench = Bench(darkroom, provider, options)
            print(f"{'':36}{'calls/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}{'p50 +':>9}  load")
            if "apps" in options.only:
                bench.apps()
            if "passed" in options.only:
                bench.compare_pass_through()
            for number in in_one:
                bench.waiting(number, 1)
        for number in waiting[len(in_one) :]:
            replicas = -(-number // MAX_HOSTED_SLOTS)
            with running_darkroom(provider, replicas, apps=False) as darkroom:
                Bench(darkroom, provider, options).waiting(number, replicas)


if __name__ == "__main__":
    main()
