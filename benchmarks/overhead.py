"""What Darkroom adds to Ray Serve, and what waiting clients cost: ratios within one run.

    python -m benchmarks.overhead [--seconds 4] [--rounds 3]
        [--only run apps subscribers hosted submit]

One `darkroom serve` as it comes, and beside it in the same Ray cluster, behind the same HAProxy, a
bare FastAPI route (`benchmarks/bare.py`). Each pair is measured in turns, A B A B …, from one
process of load; what is compared are the medians of the rounds. The machine may be busy with other
things, so each line has its load average, and only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import bare
from benchmarks.cpu import CpuByRole, processes_of, seconds_of, summary
from benchmarks.load import Figures, measure, post
from tests.cluster.darkroom import ROOT, Darkroom, clean_environment, eventually

MODELS = Path(__file__).parent / "models.yaml"
PROBE = "tests.fakes.family:ProbeFamily"
POOLS = {
    "noop": {"families": ["probe"], "slots": 64, "num_cpus": 0.1},
    "long": {"families": ["long"], "slots": 4, "num_cpus": 0.1},
    "parked": {"families": ["parked"], "slots": 1, "num_cpus": 0.1},
}
APPS = {
    "apps": {"families": ["python"], "slots": 64, "num_cpus": 0.1},
    "hosted": {"families": ["darkroom"], "slots": 1000, "num_cpus": 0.1},
}
WAITING = 200  # hosted requests of one process
CLIENTS = (1, 16, 64)
SUBSCRIBERS, PROCESSES, SUBMITTERS = 200, 2, 8

Measured = Callable[[], Figures]


class Bench:
    """A running Darkroom with the bare route beside it."""

    def __init__(self, darkroom: Darkroom, seconds: float, rounds: int) -> None:
        self._darkroom = darkroom
        self._seconds = seconds
        self._rounds = rounds
        self._host = f"127.0.0.1:{darkroom.port}"

    def post(self, path: str, clients: int, body: object) -> Figures:
        """One measurement of POSTs to ``path``."""
        request = post(
            path, self._host, json.dumps(body).encode(), Authorization=f"Key {self._darkroom.key}"
        )
        figures = measure("127.0.0.1", self._darkroom.port, request, clients, self._seconds)
        if figures.errors:
            raise RuntimeError(f"{figures.errors} calls of {path} failed")
        return figures

    def in_turns(self, first: Measured, second: Measured) -> tuple[Figures, Figures]:
        """The medians of both, measured alternately."""
        pairs = [(first(), second()) for _ in range(self._rounds)]
        return _median([a for a, _ in pairs]), _median([b for _, b in pairs])

    def run(self) -> None:
        """`run` of an endpoint that does nothing, the whole durable way, against the bare route."""
        for clients in CLIENTS:
            a, b = self.in_turns(
                lambda n=clients: self.post(f"{bare.PREFIX}/noop", n, {"steps": 0}),
                lambda n=clients: self.post("/run/test/noop", n, {"steps": 0}),
            )
            show(f"bare route, {clients} clients", a)
            show(f"run, {clients} clients", b, a)
            self._print_cpu(f"{bare.PREFIX}/noop", clients)
            self._print_cpu("/run/test/noop", clients)

    def apps(self) -> None:
        """`run` of an app that does nothing, in a process of its own, against the endpoint that
        does nothing in its replica."""
        for clients in CLIENTS:
            a, b = self.in_turns(
                lambda n=clients: self.post("/run/test/noop", n, {"steps": 0}),
                lambda n=clients: self.post("/run/apps/noop", n, {"steps": 0}),
            )
            show(f"run, {clients} clients", a)
            show(f"run of an app, {clients} clients", b, a)
            self._print_cpu("/run/test/noop", clients)
            self._print_cpu("/run/apps/noop", clients)

    def hosted(self) -> None:
        """`run` through a hosted provider, which is this very Darkroom, against the endpoint there;
        and what requests cost that wait for a provider."""
        self._add_hosted("noop", "test/noop")
        self._add_hosted("parked", "test/parked")
        self.post("/run/hosted/noop", 1, {"steps": 0})
        a, b = self.in_turns(
            lambda: self.post("/run/test/noop", 1, {"steps": 0}),
            lambda: self.post("/run/hosted/noop", 1, {"steps": 0}),
        )
        show("run, 1 client", a)
        show("run by a hosted provider, 1 client", b, a)
        everyone = self._darkroom.http
        everyone.post("/queue/test/parked", json={"sleep_s": 3600})
        (replica,) = [
            each
            for each in processes_of(self._darkroom)
            if "ServeReplica:darkroom-hosted" in " ".join(each.cmdline())
        ]
        before_mib = replica.memory_info().rss / 2**20
        for number in range(WAITING):
            everyone.post("/queue/hosted/parked", json={"echo": number}).raise_for_status()

        def accepted() -> bool:
            lanes = everyone.get("/v1/queue").json()["lanes"]
            return any(each["pool"] == "parked" and each["queued"] >= WAITING for each in lanes)

        eventually(accepted, f"{WAITING} requests at the provider", within_s=900)
        spent = seconds_of([replica])
        time.sleep(self._seconds)
        share = (seconds_of([replica]) - spent) / self._seconds
        grown = replica.memory_info().rss / 2**20 - before_mib
        print(f"    {WAITING} requests wait for the provider in one process: {grown:.0f} MiB more,")
        print(f"    {share:.2f} of a CPU", flush=True)

    def _add_hosted(self, name: str, endpoint: str) -> None:
        """Add the endpoint ``hosted/NAME``, which this Darkroom runs as ``endpoint``."""
        everyone, schema = self._darkroom.http, {"type": "object", "additionalProperties": True}
        kept = "/v1/secrets/ELSEWHERE_KEY?installation=true"
        everyone.put(kept, json={"value": self._darkroom.key}).raise_for_status()
        options = {
            "secrets": ["ELSEWHERE_KEY"],
            "hosted": {"endpoint": endpoint, "url": self._darkroom.url},
            "input_schema": {**schema, "properties": {}},
            "output_schema": schema,
        }
        entry = {"family": "darkroom", "schema": "json", "options": options}
        path = f"/v1/models/entries/hosted/{name}"
        everyone.put(path, json=entry).raise_for_status()

    def _print_cpu(self, path: str, clients: int) -> None:
        """One more measurement, in which the CPU time of every process is counted."""
        spent = CpuByRole(self._darkroom)
        spent.start()
        figures = self.post(path, clients, {"steps": 0})
        print(f"    {path}: {summary(spent.per_call(figures.rate * self._seconds))}")

    def submit(self) -> None:
        """`submit` to a pool that is busy, against the bare route."""
        self._darkroom.http.post("/queue/test/parked", json={"sleep_s": 3600})
        for clients in CLIENTS:
            a, b = self.in_turns(
                lambda n=clients: self.post(f"{bare.PREFIX}/noop", n, {"steps": 0}),
                lambda n=clients: self.post("/queue/test/parked", n, {"steps": 0}),
            )
            show(f"bare route, {clients} clients", a)
            show(f"submit, {clients} clients", b, a)

    def subscribers(self) -> None:
        """Submits that run, with and without clients of fal's that poll for other requests.

        The subscribers live on the same cores. So there is a third measurement, with processes that
        burn as much CPU as the subscribers did: against it stands what they cost the server.
        """
        alone, burnt, subscribed = [], [], []
        for _ in range(self._rounds):
            alone.append(self._submits())
            figures, share = self._among_subscribers()
            subscribed.append(figures)
            burnt.append(self._among_burners(share))
        first, second, third = _median(alone), _median(burnt), _median(subscribed)
        show(f"submit, {SUBMITTERS} clients", first)
        show("the same, as much CPU burnt beside", second, first)
        show(f"the same, {SUBSCRIBERS} subscribers", third, first)
        print(f"{'subscribers against CPU burnt':<36}{third.rate / second.rate:35.2f}")

    def _submits(self) -> Figures:
        return self.post("/queue/test/noop", SUBMITTERS, {"steps": 0})

    def _among_subscribers(self) -> tuple[Figures, float]:
        """Also the share of a CPU that the subscribers took."""
        number = str(SUBSCRIBERS // PROCESSES)
        with self._processes("subscribers", self._darkroom.url, "test/long", number) as processes:
            for process in processes:
                _line(process, "waiting")
            figures = self._submits()
            for process in processes:
                process.terminate()
            said = [_line(process).split() for process in processes]
        rate, share = (sum(float(one[n]) for one in said) for n in (0, 1))
        print(f"    {rate:.0f} statuses a second; {share:.2f} of a CPU in the subscribers")
        return figures, share

    def _among_burners(self, share: float) -> Figures:
        with self._processes("burner", str(share / PROCESSES)) as processes:
            for process in processes:
                _line(process, "burning")
            return self._submits()

    @contextmanager
    def _processes(self, module: str, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
        processes = [
            subprocess.Popen(  # noqa: S603 our own module
                [sys.executable, "-m", f"benchmarks.{module}", *arguments],
                env=clean_environment() | {"FAL_KEY": self._darkroom.key},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.terminate()
                process.wait(timeout=60)


def _line(process: subprocess.Popen[str], wanted: str = "") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line or (wanted and line != wanted):
        raise RuntimeError(f"A process of subscribers said {line!r}")
    return line


def _median(of: Sequence[Figures]) -> Figures:
    return Figures(
        rate=statistics.median(one.rate for one in of),
        p50_ms=statistics.median(one.p50_ms for one in of),
        p99_ms=statistics.median(one.p99_ms for one in of),
        errors=sum(one.errors for one in of),
    )


def show(what: str, figures: Figures, against: Figures | None = None) -> None:
    """One line of the table; ``against``: what the ratio and the difference are to."""
    line = f"{what:<36}{figures.rate:9.0f}{figures.p50_ms:9.2f}{figures.p99_ms:9.2f}"
    if against is not None:
        added_ms = figures.p50_ms - against.p50_ms
        line += f"{figures.rate / against.rate:8.2f}{added_ms:+9.2f}"
    else:
        line += " " * 17
    print(f"{line}{os.getloadavg()[0]:7.1f}", flush=True)


def serve(directory: Path, *, apps: bool) -> Darkroom:
    """A Darkroom with the bare route beside it, all its replicas ready. ``apps``: with the app that
    does nothing."""
    families = {"probe": PROBE, "long": PROBE, "parked": PROBE}
    darkroom = Darkroom(
        directory / "data", POOLS | APPS, families=json.dumps(families), models=str(MODELS)
    )
    try:
        _start(darkroom, apps=apps)
    except BaseException:
        darkroom.clear_away()
        raise
    return darkroom


def _start(darkroom: Darkroom, *, apps: bool) -> None:
    darkroom.start()
    script = "import sys; from benchmarks.bare import deploy; deploy(sys.argv[1])"
    deployed = darkroom.beside(script, {})
    if deployed.returncode:
        raise RuntimeError(deployed.stderr)
    everyone = darkroom.http
    eventually(
        lambda: everyone.post(f"{bare.PREFIX}/noop", json={}).status_code == 200, "the bare route"
    )
    if apps:
        deployed = darkroom.command("deploy", str(Path(__file__).with_name("noop_app.py")))
        if deployed.returncode:
            raise RuntimeError(deployed.stderr)
    own = ("apps/noop",) if apps else ()
    for endpoint in (*(f"test/{pool}" for pool in POOLS), *own):
        answer = everyone.post(f"/run/{endpoint}", json={"steps": 0})
        assert answer.status_code == 200, answer.text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parts = (
        "run",
        "apps",
        "subscribers",
        "hosted",
        "submit",
    )  # the last leaves a long queue behind
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        darkroom = serve(Path(scratch), apps="apps" in given.only)
        try:
            bench = Bench(darkroom, given.seconds, given.rounds)
            print(f"{'':36}{'calls/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}{'p50 +':>9}  load")
            for part in parts:
                if part in given.only:
                    getattr(bench, part)()
            darkroom.stop()
        finally:
            darkroom.clear_away()


if __name__ == "__main__":
    main()
