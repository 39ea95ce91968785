"""`darkroom top` as typed by a user, against a Darkroom with fakes behind real HTTP."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest

from serve_app.cli.commands.top import FORGET_S, RateMeter, Screen, Seen, lines, watch
from serve_app.cli.connection.client import Client
from serve_app.cli.main import main
from serve_app.domain.lease import EngineUsage
from serve_app.domain.request import State
from serve_app.settings import PoolConfig
from serve_app.telemetry.metrics import Metrics
from tests.wire.served import Address, serve

PROBE = "test/probe"
LEFT = "\x1b[?25h\x1b[?1049l"
"""What gives the terminal its cursor and its content back."""


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    families = ("probe", "flux", "sdxl", "video", "audio", "generic")
    pools = {"studio": PoolConfig(families=families, min_replicas=0, max_replicas=4)}
    with serve(replica=False, pools=pools) as address:
        headers = {"Authorization": f"Key {address.key}"}
        httpx.post(f"{address.url}/queue/{PROBE}", headers=headers, json={}, trust_env=False)
        yield address


class There:
    """Where a client finds Darkroom."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def url(self) -> str:
        return self._address.url

    def key(self) -> str:
        return self._address.key


def top(address: Address, folder: Path, *words: str) -> str:
    (folder / "run.json").write_text(json.dumps({"url": address.url}))
    (folder / "api_key").write_text(address.key)
    command = ["top", "--interval", "0.1", *words, "--data-dir", str(folder)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_without_a_terminal_one_view_is_printed_without_commands_to_it(
    address: Address, tmp_path: Path
) -> None:
    for words in ((), ("--once",)):
        shows_the_queued_request(top(address, tmp_path, *words), address)


def shows_the_queued_request(text: str, address: Address) -> None:
    assert "\x1b" not in text
    assert text.splitlines()[0] == f"{address.url}: ready"
    (pool,) = [line.split() for line in text.splitlines() if line.startswith("studio ")]
    assert (pool[:3], pool[5:10]) == (["studio", "1", "0"], ["none", "-", "0", "to", "4"])
    (lane,) = [line.split() for line in text.splitlines() if line.startswith("default ")]
    assert lane[:4] == ["default", "studio", "1", "0"]


def test_the_view_as_json_has_the_status_and_the_throughput(
    address: Address, tmp_path: Path
) -> None:
    seen = json.loads(top(address, tmp_path, "--json"))
    assert seen["ready"] is True
    assert seen["pools"]["studio"]["max_replicas"] == 4
    assert [lane["queued"] for lane in seen["lanes"]] == [1]
    submitted = {"endpoint": PROBE, "state": "queued", "requests": 0.0}
    assert (seen["per_minute"], seen["steps_per_second"]) == ([submitted], {})


def test_the_view_shows_what_each_replica_holds_and_loads() -> None:
    ready = {"replica_id": "r1", "pool": "studio", "stage": "ready", "slots": 2, "detail": ""}
    ready |= {"node": "10.0.0.7", "device": "NVIDIA L4"}
    loading = ready | {"replica_id": "r2", "stage": "starting", "detail": "loading a/c"}
    loading |= {"node": "", "device": ""}
    pool = {"queued": 3, "running": 1, "oldest_wait_s": 7.4, "min_replicas": None}
    kept = {"endpoint_id": "a/b", "pool": "studio", "level": "hot", "replicas": 2}
    status: dict[str, Any] = {
        "checks": {"database": "ok", "storage": "It is away."},
        "unplaceable": {"clips": "Pool clips: a replica needs 1 GPU."},
        "pools": {"studio": pool | {"max_replicas": None, "target_replicas": 2}},
        "warm": [
            kept | {"ready_replicas": 1, "until": None, "problems": []},
            kept
            | {
                "endpoint_id": "",
                "ready_replicas": 2,
                "until": "2026-11-23T10:00:00+00:00",
                "problems": ["Full."],
            },
        ],
        "replicas": [
            ready | {"hot": ["a/b", "a/c"], "warm": ["d/e"]},
            loading | {"hot": [], "warm": []},
        ],
        "events": [
            {
                "at": "2026-11-23T09:59:58.123456+00:00",
                "kind": "replica",
                "name": "r0",
                "pool": "studio",
                "node": "10.0.0.7",
                "version": "",
                "event": "ended",
                "reason": "its node failed",
            },
            {
                "at": "2026-11-23T09:00:00+00:00",
                "kind": "ingress",
                "name": "i1",
                "pool": "",
                "node": "",
                "version": "0.1.0",
                "event": "started",
                "reason": "",
            },
        ],
    }
    rates = {(PROBE, "queued"): 0.5, (PROBE, "expired"): 0.1, ("studio", "steps"): 12.34}
    view = [*lines(Seen("http://here", False, status, [], rates))]
    assert view == [
        "http://here: not ready",
        "  storage: It is away.",
        "Pool clips: a replica needs 1 GPU.",
        "",
        "POOL    QUEUED  RUNNING  OLDEST  REPLICAS             TARGET  BOUNDS  STEPS/S",
        "studio       3        1     7 s  1 ready, 1 starting       2       -     12.3",
        "",
        "REPLICA  POOL    NODE      GPU        STAGE     SLOTS  WEIGHTS",
        "r1       studio  10.0.0.7  NVIDIA L4  ready         2  a/b, a/c; in memory: d/e",
        "r2       studio  -         -          starting      2  loading a/c",
        "",
        "KEPT      POOL    LEVEL  READY   UNTIL             PROBLEM",
        "a/b       studio  hot    1 of 2  -",
        "replicas  studio  hot    2 of 2  2026-11-23T10:00  Full.",
        "",
        "ENDPOINT    SUBMITTED/MIN  DONE/MIN  FAILED/MIN",
        "test/probe           30.0       0.0         6.0",
        "",
        "TIME                 PROCESS            NODE      EVENT",
        "2026-11-23T09:59:58  replica studio r0  10.0.0.7  ended: its node failed",
        "2026-11-23T09:00:00  ingress i1         -         started",
    ]


def test_the_throughput_is_that_of_all_ingress_replicas_whichever_answers() -> None:
    first, two = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    throughput = RateMeter()

    def read(metrics: Metrics, now: float) -> None:
        throughput.read(generate_latest(metrics.registry).decode(), now)

    def end(metrics: Metrics, number: int) -> None:
        for _ in range(number):
            metrics.queue.count_entry(PROBE, State.SUCCEEDED)
            metrics.record_engine_usage("studio", EngineUsage(4, {}, {}, {}))

    end(first, 100)  # before the view
    read(first, 0.0)
    assert throughput.rates() is None
    end(two, 7)
    read(two, 1.0)
    end(first, 4)
    read(first, 2.0)
    assert throughput.rates() == {(PROBE, "succeeded"): 2.0, ("studio", "steps"): 8.0}
    end(two, 6)
    read(two, 3.0)
    assert throughput.rates() == {(PROBE, "succeeded"): 5.0, ("studio", "steps"): 20.0}
    read(two, 3.0 + FORGET_S)  # the first one answered no more
    assert throughput.rates() == {(PROBE, "succeeded"): 0.0, ("studio", "steps"): 0.0}


def test_a_view_is_cut_to_the_terminal_and_overwrites_the_last_one() -> None:
    written = io.StringIO()
    with Screen(written, lambda: (4, 2)) as screen:
        screen.show(["abcdefg", "h", "i"])
    entered, shown, left = written.getvalue().partition("\x1b[Habcd\x1b[K\nh\x1b[K\x1b[J")
    assert shown
    assert entered == "\x1b[?1049h\x1b[?25l"
    assert left == LEFT


def test_the_view_goes_on_while_darkroom_is_away_and_ctrl_c_gives_the_terminal_back(
    address: Address,
) -> None:
    written, slept = io.StringIO(), list[float]()

    class Gone(There):
        def url(self) -> str:
            return "http://127.0.0.1:9"  # nothing listens there

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    for place, shown in ((There(address), "default  studio"), (Gone(address), "Nothing answers")):
        slept.clear()
        with Client(place) as client:
            watch(client, Screen(written, lambda: (200, 50)), 2.0, sleep)
        assert slept == [2.0, 2.0]
        assert written.getvalue().endswith(LEFT)
        assert shown in written.getvalue()


def test_what_a_terminal_would_take_as_a_command_is_not_written(address: Address) -> None:
    written = io.StringIO()

    class Strange(Client):
        def get(self, path: str, **query: Any) -> Any:
            lane = {"tenant": "ann\x1b[2J", "pool": "p", "queued": 1, "running": 0, "oldest_s": 1}
            return {"lanes": [lane]} if path == "/v1/queue" else super().get(path, **query)

    def sleep(_: float) -> None:
        raise KeyboardInterrupt

    with Strange(There(address)) as client:
        watch(client, Screen(written, lambda: (200, 50)), 2.0, sleep)
    assert "ann\N{REPLACEMENT CHARACTER}[2J" in written.getvalue()
