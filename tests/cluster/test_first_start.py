"""The README's command, as a newcomer types it: embedded defaults and the demo models. Then the
first steps of five people, which ``scripts/first_hour`` rehearses and measures."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve.greeting import PROMPT
from tests.cluster.darkroom import (
    ROOT,
    STOP_S,
    Darkroom,
    clean_environment,
    eventually,
    living,
)
from tests.cluster.processes import with_default_signals
from tests.first_hour.in_a_browser import chromium_program
from tests.first_hour.people import IN_A_BROWSER, PEOPLE
from tests.first_hour.rehearsal import Rehearsal, shell_of
from training.image.checker import read

pytestmark = pytest.mark.cluster

VIDEO = "fal-ai/wan/v2.2-5b/text-to-video"
LOUD = re.compile(r"^\S+Z (?:WARNING|ERROR) .*", re.MULTILINE)
DEAD_PROXY = dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
)
"""Nothing on one machine goes through the proxy of the user's company."""
SAMPLE = re.compile(r'"(.+)" took [\d.]+ s: (\S+)')


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Darkroom]:
    """Where the command puts things; it is not started by this."""
    if not (ROOT / ".venv" / "installed-run").exists():
        pytest.skip("This checkout was not set up by scripts/test, and the command would do it.")
    darkroom = Darkroom(tmp_path / "data")
    yield darkroom
    darkroom.clear_away()


def test_the_first_command_makes_an_image_of_its_prompt(place: Darkroom, tmp_path: Path) -> None:
    with place.output.open("wb") as log:
        running = subprocess.Popen(
            with_default_signals(
                *("sh", str(ROOT / "scripts" / "run"), "--demo"),
                *("--data-dir", str(place.data_dir), "--port", str(place.port)),
            ),
            env=clean_environment() | DEAD_PROXY,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=place.data_dir.parent,
            start_new_session=True,
        )
    place.adopt(running)

    def sample() -> str:
        text = place.output.read_text(errors="replace")
        assert running.poll() is None, f"It ended:\n{text}"
        assert "failed" not in text, text
        assert "Traceback" not in text, text
        match = SAMPLE.search(text)
        return match[1] if match else ""

    assert eventually(sample, f"there is an image; see {place.output}") == PROMPT
    image = Image.open(place.data_dir / "sample.png")
    seen = sorted((sight.colour, sight.shape) for sight in read(image).sights)
    assert seen == [("blue", "square"), ("red", "circle")]
    text = place.output.read_text(errors="replace")
    assert f"http://127.0.0.1:{place.port}" in text
    assert text.count(place.key) == 1
    assert "fal_client.subscribe(" in text
    assert LOUD.findall(text) == [], "a first start frightens nobody"

    work = tmp_path / "work"
    work.mkdir()
    rehearsal = Rehearsal(shell_of(place.data_dir, ROOT), work, lambda _: None)
    for name, takes_first_steps in PEOPLE.items():
        if name not in IN_A_BROWSER or chromium_program() is not None:
            takes_first_steps(rehearsal, place.url, place.key)
    assert rehearsal.steps

    started = place.leftovers()
    begin_videos(place)
    said_bytes = place.output.stat().st_size
    os.killpg(running.pid, signal.SIGINT)  # a terminal sends Ctrl-C to all of them
    assert running.wait(timeout=STOP_S) == 0
    stop = place.output.read_bytes()[said_bytes:].decode(errors="replace")
    assert stop.endswith("Stopped.\n"), stop
    # Other warnings may come on a machine that stands still, when the limit of the stop is over.
    assert "PostgreSQL" not in stop, "it ends after all that use it"
    assert "HAProxy" not in stop, "the gateway's own goes on until it is ended"
    assert living(started) == []
    assert not Installation(place.data_dir).run_dir.exists()


def begin_videos(place: Darkroom) -> None:
    """Give the replica work for a minute, and wait until it has begun."""
    orders = {"prompt": "a red circle moving left", "num_frames": 81, "num_inference_steps": 40}
    for _ in range(12):
        place.http.post(f"/queue/{VIDEO}", json=orders).raise_for_status()
    running = "/v1/requests?state=running&limit=1"
    eventually(lambda: place.http.get(running).json()["requests"], "a video is made")
