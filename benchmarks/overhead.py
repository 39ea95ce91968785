"""What Darkroom adds to Ray Serve, and what waiting clients cost: ratios within one run.

    python -m benchmarks.overhead [--seconds 4] [--rounds 3]
        [--only run subscribers submit]

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
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import bare
from benchmarks.cpu import CpuByRole, summary
from benchmarks.load import Figures, measure, post
from tests.cluster.darkroom import ROOT, Darkroom, clean_environment, eventually

MODELS = Path(__file__).parent / "models.yaml"
PROBE = "tests.fakes.family:ProbeFamily"
POOLS = {
    "noop": {"families": ["probe"], "slots": 64, "num_cpus": 0.1},
    "long": {"families": ["long"], "slots": 4, "num_cpus": 0.1},
    "parked": {"families": ["parked"], "slots": 1, "num_cpus": 0.1},
}
ROOM = {"max_waiting": str(10**9), "max_waiting_per_tenant": str(10**9)}
"""A fast machine submits more in the rounds than a tenant may have waiting."""
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
        return median_of([a for a, _ in pairs]), median_of([b for _, b in pairs])

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
        first, second, third = median_of(alone), median_of(burnt), median_of(subscribed)
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
            outputs = [_line(process).split() for process in processes]
        rate, share = (sum(float(fields[n]) for fields in outputs) for n in (0, 1))
        print(f"    {rate:.0f} statuses a second; {share:.2f} of a CPU in the subscribers")
        return figures, share

    def _among_burners(self, share: float) -> Figures:
        with self._processes("burner", str(share / PROCESSES)) as processes:
            for process in processes:
                _line(process, "burning")
            return self._submits()

    @contextmanager
    def _processes(self, module: str, *arguments: str) -> Generator[list[subprocess.Popen[str]]]:
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


def median_of(of: Sequence[Figures]) -> Figures:
    """Median of each figure."""
    return Figures(
        rate=statistics.median(figures.rate for figures in of),
        p50_ms=statistics.median(figures.p50_ms for figures in of),
        p99_ms=statistics.median(figures.p99_ms for figures in of),
        errors=sum(figures.errors for figures in of),
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


def serve(directory: Path) -> Darkroom:
    """A Darkroom with the bare route beside it, all its replicas ready."""
    families = {"probe": PROBE, "long": PROBE, "parked": PROBE}
    darkroom = Darkroom(
        directory / "data", POOLS, families=json.dumps(families), models=str(MODELS), **ROOM
    )
    try:
        _start(darkroom)
    except BaseException:
        darkroom.clear_away()
        raise
    return darkroom


def _start(darkroom: Darkroom) -> None:
    darkroom.start()
    script = "import sys; from benchmarks.bare import deploy; deploy(sys.argv[1])"
    deployed = darkroom.beside(script, {})
    if deployed.returncode:
        raise RuntimeError(deployed.stderr)
    everyone = darkroom.http
    eventually(
        lambda: everyone.post(f"{bare.PREFIX}/noop", json={}).status_code == 200, "the bare route"
    )
    for pool in POOLS:
        answer = everyone.post(f"/run/test/{pool}", json={"steps": 0})
        assert answer.status_code == 200, answer.text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parts = ("run", "subscribers", "submit")  # the last leaves a long queue behind
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        darkroom = serve(Path(scratch))
        try:
            bench = Bench(darkroom, options.seconds, options.rounds)
            print(f"{'':36}{'calls/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}{'p50 +':>9}  load")
            for part in parts:
                if part in options.only:
                    getattr(bench, part)()
            darkroom.stop()
        finally:
            darkroom.clear_away()


if __name__ == "__main__":
    main()
