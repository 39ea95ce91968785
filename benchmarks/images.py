"""Images over HTTP: Darkroom beside one by one, Ray Serve, LitServe and BentoML, in turns.

    python -m benchmarks.images [--models flux sdxl] [--steps 4 8 12 20 28] [--equal 12]
        [--litserve PYTHON] [--bentoml PYTHON]

The same demo weights on the CPU, the same images, the same number of threads behind all. Darkroom
is all of `darkroom serve` on a directory of its own, with fal's own client; the others are in
`benchmarks/peers`, each with its own batching: a batch is drawn in groups of equal step counts.

LitServe and BentoML run by a Python of an environment of their own
(benchmarks/README.md says how it is made); without one of them its line is left out.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

from benchmarks.cpu import processes_of, role_of, seconds_of
from benchmarks.image_load import Client, Waits, measure, of_fal, of_http
from benchmarks.peers.process import PeerProcess
from benchmarks.wishes import Wish, wishes
from tests.cluster.darkroom import ROOT, Darkroom, eventually

CATALOGUE = ROOT / "serve_app" / "catalog" / "models.yaml"
PLAIN = "one by one: FastAPI, a lock"
DARKROOM = "Darkroom"
SERVE = "Ray Serve, @serve.batch"


@dataclass(frozen=True)
class Server:
    client: Client
    cpu_s: Callable[[], float]
    """Seconds of CPU that its processes have taken so far."""


@dataclass(frozen=True)
class Turn:
    waits: Waits
    cpu_s: float  # of the server's processes


def darkroom_beside_plain_serve(
    directory: Path, options: argparse.Namespace, stack: ExitStack
) -> dict[str, Server]:
    """Both in one Ray cluster, behind one HAProxy."""
    pool = {
        "families": ["flux", "sdxl"],
        "slots": options.clients,
        "num_cpus": 0.1,
        "threads": options.threads,
    }
    darkroom = Darkroom(directory / "data", {"studio": pool}, families="{}", models=str(CATALOGUE))
    stack.callback(darkroom.clear_away)
    darkroom.start(within_s=600)  # the others have the machine's cores meanwhile
    stack.callback(darkroom.stop)
    servers = {
        DARKROOM: Server(
            of_fal(darkroom.url, darkroom.key), lambda: _spent(darkroom, of_plain_serve=False)
        )
    }
    if "serve" in options.only:
        script = (
            "import json, sys; from benchmarks.peers.plain_serve import deploy; "
            "deploy(sys.argv[1], json.loads(sys.argv[2]))"
        )
        settings = {name: getattr(options, name) for name in ("threads", "batch", "wait_ms")}
        deployed = darkroom.beside(script, settings, within_s=600)
        if deployed.returncode:
            raise RuntimeError(deployed.stderr)
        wish = wishes("flux", 1, options.steps)[0].as_json()
        eventually(lambda: _plain_serve_draws(darkroom, wish), "Ray Serve answers", within_s=300)
        servers[SERVE] = Server(
            of_http(f"{darkroom.url}/plain/draw"), lambda: _spent(darkroom, of_plain_serve=True)
        )
    return servers


def _plain_serve_draws(darkroom: Darkroom, wish: Mapping[str, object]) -> bool:
    """False while no server is behind the route; raises where it answers anything but an image."""
    answer = darkroom.http.post("/plain/draw", json=wish, timeout=300)
    if answer.status_code in (404, 503):
        return False
    answer.raise_for_status()
    return True


def _spent(darkroom: Darkroom, *, of_plain_serve: bool) -> float:
    """What Ray and HAProxy do for both counts as Darkroom's."""
    every = list(processes_of(darkroom))
    return seconds_of(
        process for process in every if (role_of(process) == "plain") is of_plain_serve
    )


def peers(directory: Path, options: argparse.Namespace, stack: ExitStack) -> dict[str, Server]:
    """Those that run by themselves."""
    started: dict[str, Server] = {}
    servers = (
        (PLAIN, "one_by_one", sys.executable, False),
        ("LitServe", "lit", options.litserve, False),
        ("BentoML", "bento", options.bentoml, True),
    )
    for name, module, python, listed in servers:
        if module not in options.only:
            continue
        if python is None:
            print(f"{name} is left out: name its Python by an option.")
            continue
        process = PeerProcess(module, python, options, directory / f"{module}.out")
        stack.callback(process.stop)
        process.start()
        started[name] = Server(
            of_http(f"{process.url}/draw", listed=listed),
            lambda process=process: seconds_of(process.family()),
        )
    return started


def show(turns: Mapping[str, Sequence[Turn]], count: int) -> None:
    """Medians of the turns; percentiles over the images of all of them."""
    head = ("images/s", "ratio", "p50 s", "p95 s", "CPU s each", "ratio")
    print(" " * 30 + "".join(f"{title:>11}" for title in head))
    base_s, base_cpu_s = _medians(turns[PLAIN]) if PLAIN in turns else (0.0, 0.0)
    for name, series in turns.items():
        cuts = statistics.quantiles([wait for turn in series for wait in turn.waits.each_s], n=100)
        took_s, cpu_s = _medians(series)
        row = (count / took_s, base_s / took_s, cuts[49], cuts[94], cpu_s / count)
        print(f"{name:30}" + "".join(f"{value:11.3g}" for value in (*row, base_cpu_s / cpu_s)))


def _medians(turns: Sequence[Turn]) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    return (
        statistics.median(turn.waits.took_s for turn in turns),
        statistics.median(turn.cpu_s for turn in turns),
    )


def furthest(some: Waits, others: Waits) -> float:
    """The largest mean difference of two images of one wish, in levels of 255."""
    return max(_difference(file, others.files[wish]) for wish, file in some.files.items())


def _difference(some: bytes, others: bytes) -> float:
    first, other = (Image.open(io.BytesIO(file)).convert("RGB") for file in (some, others))
    return statistics.mean(ImageStat.Stat(ImageChops.difference(first, other)).mean)


def loads(options: argparse.Namespace) -> dict[str, list[Wish]]:
    """By name: of each model mixed step counts, and where others merge best, all the same."""
    workloads: dict[str, list[Wish]] = {}
    for model in options.models:
        workloads[f"{model}, {options.steps} steps"] = wishes(model, options.images, options.steps)
        if options.equal:
            workloads[f"{model}, {options.equal} steps"] = wishes(
                model, options.images, [options.equal]
            )
    return workloads


def compare(
    servers: Mapping[str, Server], wanted: Sequence[Wish], options: argparse.Namespace
) -> None:
    """Every server's turns, and the table of them."""
    turns: dict[str, list[Turn]] = {name: [] for name in servers}
    for number in range(options.rounds):
        for name, server in servers.items():
            before_s = server.cpu_s()
            waits = measure(server.client, wanted, options.clients)
            turns[name].append(Turn(waits, server.cpu_s() - before_s))
            print(f"    round {number + 1}: {name} {len(wanted) / waits.took_s:.2f}", flush=True)
    show(turns, len(wanted))
    for name, series in turns.items():
        if PLAIN in turns and name != PLAIN:
            apart = furthest(series[-1].waits, turns[PLAIN][-1].waits)
            print(f"{name}: images at most {apart:.2f} levels of 255 apart", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ("one_by_one", "lit", "bento", "serve", "darkroom")
    parser.add_argument("--models", choices=("flux", "sdxl"), nargs="+", default=("flux", "sdxl"))
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 12, 20, 28])
    parser.add_argument("--equal", type=int, default=0, help="also with so many steps for all")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--images", type=int, default=80, help="in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="that each server computes with")
    parser.add_argument("--batch", type=int, default=16, help="most in a batch of the others")
    parser.add_argument("--wait-ms", type=float, default=60, help="for a batch to fill")
    parser.add_argument("--litserve", help="a Python that has it")
    parser.add_argument("--bentoml", help="a Python that has it")
    parser.add_argument("--only", nargs="*", choices=every, default=every)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended."))  # so that the servers end too
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        servers: dict[str, Server] = {}
        if "darkroom" in options.only:
            servers = darkroom_beside_plain_serve(Path(scratch), options, stack)
        servers |= peers(Path(scratch), options, stack)
        for what, workload in loads(options).items():
            for server in servers.values():  # the first images cost more
                measure(server.client, workload[: options.clients], options.clients)
            print(
                f"{what}: {len(workload)} images a turn, {options.clients} clients, "
                f"{options.threads} threads, load average {os.getloadavg()[0]:.1f}"
            )
            compare(servers, workload, options)


if __name__ == "__main__":
    main()
