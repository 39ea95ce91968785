"""fal's endpoints over open weights, each added by one command: what it delivers, its previews, a
cancel, and a replica that is killed on the way."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.inspection.open_endpoints import OPEN_ENDPOINTS
from tests.cluster.darkroom import Darkroom, eventually
from tests.engine.conformance.case import Case
from tests.engine.conformance.derived import NOT_TRIED
from tests.engine.conformance.previews import REFUSED
from tests.engine.conformance.served import body_of, files_of, read_file, save
from tests.engine.conformance.test_derived import OTHER_WEIGHTS
from tests.engine.conformance.zoo import cases

pytestmark = [
    pytest.mark.long,
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
]

POOL = {
    "families": ["generic", "video", "audio", "flux", "sdxl"],
    "slots": 1,
    "num_cpus": 0.1,
    "min_replicas": 2,
    "max_replicas": 2,
    "snapshot_interval_s": 0.2,
}
ALONE = {"X-Darkroom-Deterministic": "1"}
STEPS = 20
MOST_STEPS = 900
LONG_S = 5.0
"""Seconds of a request, so that there is time to look, to cancel and to kill."""

ENDPOINTS = [
    endpoint_id
    for endpoint_id, name in OPEN_ENDPOINTS.items()
    if name in cases()
    and name not in NOT_TRIED
    and not name.startswith("LatentConsistency")
    and endpoint_id not in OTHER_WEIGHTS
]
"""Without those of classes that have no case, as ``classes`` says, and of those with few steps,
which end before anybody can look."""


@pytest.fixture(scope="module")
def darkroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darkroom]:
    data = tmp_path_factory.mktemp("open") / "data"
    darkroom = Darkroom(data, pools={"studio": POOL})
    try:
        darkroom.start()
        darkroom.all_ready()
        yield darkroom
    finally:
        darkroom.clear_away()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """Saves the pipeline of a case once."""

    @cache
    def saved(name: str) -> Path:
        folder = tmp_path_factory.mktemp("weights") / name
        save(cases()[name], folder)
        return folder

    return lambda case: saved(case.name)


class Served:
    """An endpoint, and a request to it whose steps take ``LONG_S``."""

    def __init__(self, darkroom: Darkroom, endpoint_id: str, case: Case) -> None:
        self.has_previews = case.name not in REFUSED
        self._darkroom = darkroom
        self._endpoint_id = endpoint_id
        self._app = "/".join(endpoint_id.split("/")[:2])
        self._body = body_of(darkroom, endpoint_id, case, steps=STEPS)
        steps = STEPS
        for _ in range(3):  # the first one loads the weights
            began = time.monotonic()
            self.files(self.submit())
            took_s = time.monotonic() - began
            if took_s < LONG_S:
                steps = min(MOST_STEPS, round(steps * LONG_S / took_s))
                self._body = body_of(darkroom, endpoint_id, case, steps=steps)

    def submit(self) -> str:
        answer = self._darkroom.http.post(
            f"/queue/{self._endpoint_id}", json=self._body, headers=ALONE
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    def files(self, request_id: str) -> list[bytes]:
        """Contents of the files that a request has made."""
        self._darkroom.in_state(request_id, "succeeded")
        output = self._darkroom.http.get(f"/queue/{self._app}/requests/{request_id}").json()
        return [read_file(entry) for entry in files_of(output)]

    def cancel(self, request_id: str) -> None:
        answer = self._darkroom.http.put(f"/queue/{self._app}/requests/{request_id}/cancel")
        assert answer.status_code == 202, answer.text


def wait_for_preview(darkroom: Darkroom, request_id: str) -> bytes:
    """The first preview of a request."""

    def look() -> bytes | None:
        answer = darkroom.http.get(f"/v1/requests/{request_id}/preview")
        darkroom.in_state(request_id, "queued", "running")
        return answer.content if answer.status_code == 200 else None

    return eventually(look, f"{request_id} has a preview")


def progress_of(darkroom: Darkroom, request_id: str) -> Mapping[str, Any] | None:
    return darkroom.in_state(request_id, "queued", "running")["progress"]


def kill_after_a_snapshot(darkroom: Darkroom, request_id: str) -> None:
    """Kill the replica that runs a request as soon as there is a snapshot of it."""
    with darkroom.database() as connection:
        while True:
            (row,) = connection.execute(
                "SELECT state, replica_id, snapshot_step FROM requests WHERE id = %s", [request_id]
            ).fetchall()
            connection.rollback()
            state, replica_id, snapshot_step = row
            assert state in ("queued", "running"), f"It was {state} before it had a snapshot."
            if snapshot_step:
                darkroom.process_of(replica_id).kill()
                return


@pytest.fixture(params=ENDPOINTS)
def served(
    request: pytest.FixtureRequest, darkroom: Darkroom, folder_of: Callable[[Case], Path]
) -> Iterator[Served]:
    endpoint_id = request.param
    case = cases()[OPEN_ENDPOINTS[endpoint_id]]
    weights = ("--weights", str(folder_of(case)), "--pipeline", case.name)
    added = darkroom.command("models", "add", endpoint_id, *weights)
    assert added.returncode == 0, added.stderr
    yield Served(darkroom, endpoint_id, case)
    deleted = darkroom.command("models", "delete", endpoint_id)
    assert deleted.returncode == 0, deleted.stderr


def test_it_delivers_shows_previews_stops_at_a_cancel_and_goes_on_after_a_crash(
    served: Served, darkroom: Darkroom
) -> None:
    whole = served.submit()
    if served.has_previews:
        preview = wait_for_preview(darkroom, whole)
        assert max(Image.open(io.BytesIO(preview)).size) <= 256
    files = served.files(whole)
    assert files

    cancelled = served.submit()
    eventually(lambda: progress_of(darkroom, cancelled), f"{cancelled} makes progress")
    served.cancel(cancelled)
    darkroom.in_state(cancelled, "cancelled")

    darkroom.all_ready()
    interrupted = served.submit()
    kill_after_a_snapshot(darkroom, interrupted)
    assert served.files(interrupted) == files
    log = darkroom.request(interrupted)["log"]
    assert any("from the snapshot at step" in line["message"] for line in log)
