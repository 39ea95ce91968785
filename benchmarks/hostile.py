"""What attacks of one tenant cost another: p95 of Bob's runs beside each attack of Mallory, against
Bob alone. For each attack a new Darkroom as it comes, since what the last one left behind is not
nothing; with all its defaults, but for ``hooks``, where webhooks may go to this machine.

    python -m benchmarks.hostile [--seconds 10]
        [--only flood bodies history names silence inputs uploads hooks]

Mallory's load comes from a process of its own and lives on the same cores, so on a small machine
the ratio includes the CPU time that the attack itself needs. ``names`` is as slow as this machine's
name server for names that do not exist. In ``silence`` and ``inputs``, the hosts are those of a
name server that never answers: in Darkroom's processes, a look-up of a name in ``silent.invalid``
holds its thread for ten seconds, as Linux's resolver does by default with one name server.

The run fails, with a sentence, if an attack did not reach what it attacks: if an answer of
Mallory's is neither the attack's own nor a limit's (429, 503), if none is the attack's own, or if
no webhook, look-up or upload arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from tests.cluster.darkroom import PROBE, ROOT, Darkroom, clean_environment

RUN = PROBE.replace("/queue/", "/run/")
READER = "/queue/test/reader"
UPLOAD = "/cdn/files/upload"
MODELS = Path(__file__).with_name("hostile.yaml")
ATTACKERS = 32
BODY_BYTES = 15 * 2**20
SLOW_CHUNK_S = 0.2
SILENT_PORT = 19_009  # of the receivers, which take connections and say nothing
PAUSE_S = 0.05  # after a refusal, as a client that retries at once
BOBS = 2  # calls of Bob at the same time
POOL = {"families": ["probe"], "slots": 8, "num_cpus": 0.1, "min_replicas": 1}
ATTACKING = "attacking"
STOP_S = 30.0  # in which an attacker says what it saw
LIMITS = frozenset({"429", "503"})

MISSING, SILENT = "missing.invalid", "silent.invalid"
RESOLVER = """
import os, socket, time

_system = socket.getaddrinfo
_log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def getaddrinfo(host, *arguments, **options):
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name.endswith(".invalid"):
        os.write(_log, (name + chr(10)).encode())
    if name.endswith({silent!r}):
        time.sleep(10)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _system(host, *arguments, **options)


socket.getaddrinfo = getaddrinfo
"""
"""Module ``sitecustomize`` of Darkroom's processes."""


# Mallory

Seen = Counter[str]
"""Number of answers by status, of errors by their names, and of what else arrived."""

RECEIVED, LOOKED_UP, ASKED_FOR = "webhooks received", "look-ups", "uploads asked for"


class Mallory:
    """Tenant that attacks, with some connections. Use on one event loop."""

    def __init__(self, http: httpx2.AsyncClient, key: str) -> None:
        self.seen = Seen()
        self._http = http
        self._key = key
        self._numbers = count()

    async def again_and_again(self, attack: Attack) -> None:
        while True:
            try:
                await attack.call(self, next(self._numbers))
            except (httpx2.HTTPError, OSError) as error:  # cut, as it should be
                self.seen[type(error).__name__] += 1
                await asyncio.sleep(PAUSE_S)

    async def flood(self, _: int) -> None:
        """Submits as fast as they are answered."""
        await self._post(PROBE, {"steps": 1})

    async def bodies(self, _: int) -> None:
        """Bodies near the limit, full of escapes."""
        content = b'{"prompt":"' + b"\\u0041" * (BODY_BYTES // 6) + b'"}'
        headers = {"content-type": "application/json"}
        self._note(await self._http.post(PROBE, content=content, headers=headers))

    async def history(self, number: int) -> None:
        """Searches of all requests."""
        query: dict[str, str | int] = {"q": f"x{number}", "limit": 100}
        self._note(await self._http.get("/v1/requests", params=query))

    async def hooks(self, number: int) -> None:
        """Webhooks to receivers that never answer, each at an address of its own."""
        host = f"127.0.{number // 250 % 250}.{number % 250 + 1}:{SILENT_PORT}"
        await self._post(PROBE, {"steps": 0}, f"http://{host}/")

    async def names(self, number: int) -> None:
        """Webhooks to hosts whose names do not exist."""
        await self._post(PROBE, {"steps": 0}, f"https://{number}.{MISSING}/")

    async def silence(self, number: int) -> None:
        """Webhooks to hosts whose name server never answers."""
        await self._post(PROBE, {"steps": 0}, f"https://{number}.{SILENT}/")

    async def inputs(self, number: int) -> None:
        """Input files of hosts whose name server never answers."""
        await self._post(READER, {"steps": 0, "image_url": f"https://{number}.{SILENT}/a.png"})

    async def uploads(self, _: int) -> None:
        """Uploads of a few bytes a second, once the server has asked for the body."""
        parts = urlsplit(str(self._http.base_url))
        lines = [
            f"POST {UPLOAD} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Authorization: Key {self._key}",
            "Content-Type: image/png",
            "Content-Length: 1000000",
            "Expect: 100-continue",
        ]
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode())
            status = await _status(reader)
            if status == "100":
                self.seen[ASKED_FOR] += 1
                drips = asyncio.create_task(_drip(writer))
                try:
                    status = await _status(reader)
                finally:
                    drips.cancel()
            self.seen[status] += 1
        finally:
            writer.close()

    async def silent_receiver(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.seen[RECEIVED] += 1
        while await reader.read(1 << 16):
            pass
        writer.close()

    async def _post(self, path: str, body: Mapping[str, object], webhook: str = "") -> None:
        query = {"fal_webhook": webhook} if webhook else {}
        self._note(await self._http.post(path, json=body, params=query))

    def _note(self, answer: httpx2.Response) -> None:
        self.seen[str(answer.status_code)] += 1


async def _status(reader: asyncio.StreamReader) -> str:
    """Status of the next answer, as its first line says it."""
    while line := await reader.readline():
        if line.startswith(b"HTTP/1."):
            return line.split()[1].decode()
    raise ConnectionResetError("The connection was closed without an answer.")


async def _drip(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(b"x" * 64)
            await writer.drain()
            await asyncio.sleep(SLOW_CHUNK_S)


@dataclass(frozen=True)
class Attack:
    """``own``: status of a call that reached what it attacks. ``arrives``: what else must."""

    call: Callable[[Mallory, int], Awaitable[None]]
    own: str = "200"
    arrives: str = ""
    host: str = ""  # end of the names that are looked up for it

    def problem(self, seen: Seen) -> str:
        """Sentence that says why it did not reach what it attacks; empty: it did."""
        summary = (
            ", ".join(f"{number} x {what}" for what, number in seen.most_common()) or "nothing"
        )
        expected = {self.own, *LIMITS}
        if strange := [status for status in seen if status.isdigit() and status not in expected]:
            return f"Calls were answered {', '.join(strange)}, not by what they attack ({summary})."
        needed = self.arrives or self.own
        if not seen[needed]:
            what = f"a call was answered {needed}" if needed.isdigit() else f"of {needed} any came"
            return f"The attack did not arrive in this time: not {what} ({summary})."
        return ""


ATTACKS = {
    "flood": Attack(Mallory.flood),
    "bodies": Attack(Mallory.bodies),
    "history": Attack(Mallory.history),
    "names": Attack(Mallory.names, arrives=LOOKED_UP, host=MISSING),
    "silence": Attack(Mallory.silence, arrives=LOOKED_UP, host=SILENT),
    "inputs": Attack(Mallory.inputs, arrives=LOOKED_UP, host=SILENT),
    "uploads": Attack(Mallory.uploads, own="408", arrives=ASKED_FOR),
    "hooks": Attack(Mallory.hooks, arrives=RECEIVED),
}
PRIVATE = frozenset({"hooks"})
"""Attacks on a Darkroom whose webhooks may go to this machine."""


async def attack(name: str, url: str, key: str) -> None:
    """Attack until SIGTERM, then print what was seen, as JSON."""
    limits = httpx2.Limits(max_connections=ATTACKERS)
    headers = {"Authorization": f"Key {key}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as http:
        mallory, told = Mallory(http, key), asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        place = "0.0.0.0", SILENT_PORT  # noqa: S104
        async with await asyncio.start_server(mallory.silent_receiver, *place):
            calls = [
                asyncio.create_task(mallory.again_and_again(ATTACKS[name]))
                for _ in range(ATTACKERS)
            ]
            print(ATTACKING, flush=True)
            stop = asyncio.create_task(told.wait())
            ended, _ = await asyncio.wait([stop, *calls], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # the error of an attacker
            print(json.dumps(mallory.seen), flush=True)
            os._exit(0)  # connections that hang do not hold it up


# The measurement


class House:
    """A Darkroom beside a name server that never answers for some names."""

    def __init__(self, folder: Path, *, private: bool) -> None:
        self._log = folder / "looked-up"
        self._log.touch()
        self._log.chmod(0o666)  # the database runs as another user
        site = folder / "site"
        site.mkdir()
        module = RESOLVER.format(log=str(self._log), silent=SILENT)
        (site / "sitecustomize.py").write_text(module)
        self._path = os.pathsep.join((str(site), str(ROOT)))
        allowed = "1" if private else "0"
        self.darkroom = Darkroom(
            folder / "data", {"studio": POOL}, models=str(MODELS), allow_private_webhooks=allowed
        )
        self.keys: dict[str, str] = {}

    def start(self) -> None:
        self.darkroom.start(under=("env", f"PYTHONPATH={self._path}"))
        self.darkroom.all_ready(1)
        for tenant in ("bob", "mallory"):
            response = self.darkroom.http.post("/v1/keys", json={"tenant": tenant})
            self.keys[tenant] = response.raise_for_status().json()["key"]

    def looked_up(self, host: str) -> int:
        """Number of look-ups so far of names that end with ``host``."""
        names = self._log.read_text().splitlines()
        return sum(name.endswith(host) for name in names) if host else 0

    @contextmanager
    def beside(self, name: str) -> Generator[Seen]:
        """Mallory's attack while the block runs, and what it has seen afterwards."""
        seen, host = Seen(), ATTACKS[name].host
        looked_up = self.looked_up(host)
        command = (sys.executable, "-m", "benchmarks.hostile", "--attack", name)
        attacker = subprocess.Popen(  # noqa: S603 our own module
            [*command, self.darkroom.url, self.keys["mallory"]],
            cwd=ROOT,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert attacker.stdout is not None
            begun = attacker.stdout.readline()  # imports take seconds on a busy machine
            if begun.strip() != ATTACKING:
                raise RuntimeError("The attacker has ended early; its error is above.")
            yield seen
            attacker.terminate()
            output, _ = attacker.communicate(timeout=STOP_S)
            if not output:
                raise RuntimeError("The attacker has ended early; its error is above.")
            seen.update(json.loads(output))
            if lookups := self.looked_up(host) - looked_up:
                seen[LOOKED_UP] = lookups
        finally:
            attacker.kill()
            attacker.wait()


async def bobs_times(url: str, key: str, seconds: float) -> list[float]:
    """Milliseconds of Bob's runs. Raises ``HTTPStatusError`` if one fails."""
    took: list[float] = []
    headers = {"Authorization": f"Key {key}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=120) as http:
        end = time.monotonic() + seconds

        async def again_and_again() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                (await http.post(RUN, json={"steps": 1})).raise_for_status()
                took.append(1e3 * (time.monotonic() - began))

        await asyncio.gather(*(again_and_again() for _ in range(BOBS)))
    return took


def figures(took: list[float]) -> tuple[float, float]:
    """Median and p95."""
    return statistics.median(took), sorted(took)[int(0.95 * (len(took) - 1))]


def show(
    name: str, took: list[float], alone: float | None = None, seen: Seen | None = None
) -> float:
    median, p95 = figures(took)
    ratio = "" if alone is None else f"{p95 / alone:8.2f}"
    load = os.getloadavg()[0]
    arrived = ", ".join(f"{number} x {what}" for what, number in (seen or Seen()).most_common())
    line = f"{name:12}{len(took):7}{median:10.1f}{p95:10.1f}{ratio:>8}{load:8.1f}  {arrived}"
    print(line.rstrip(), flush=True)
    return p95


def measure(house: House, seconds: float, name: str) -> str:
    """Print the figures of an attack. A sentence, if it did not reach what it attacks."""

    def bob() -> list[float]:
        return asyncio.run(bobs_times(house.darkroom.url, house.keys["bob"], seconds))

    bob()  # warms up
    alone = show("alone", bob())
    with house.beside(name) as seen:
        time.sleep(seconds / 2)  # the attack is at its height
        took = bob()
    problem = ATTACKS[name].problem(seen)
    if problem:
        print(f"{name:12} not measured", flush=True)
    else:
        show(name, took, alone, seen)
    return problem


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--only", nargs="*", choices=[*ATTACKS], default=[*ATTACKS])
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack is not None:
        asyncio.run(attack(*options.attack))
        return
    problems: list[str] = []
    columns = ("beside", "runs", "p50 ms", "p95 ms", "ratio", "load")
    print("{:12}{:>7}{:>10}{:>10}{:>8}{:>8}  what Mallory saw".format(*columns))
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="dkh") as scratch:
            house = House(Path(scratch), private=name in PRIVATE)
            try:
                house.start()
                if problem := measure(house, options.seconds, name):
                    problems.append(f"{name}: {problem}")
                house.darkroom.stop()
            finally:
                house.darkroom.clear_away()
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
