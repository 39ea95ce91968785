"""fal's own JavaScript client, unmodified, set up as in docs/how-to/use-fal-clients.md."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.node import node, packages
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

HERE = Path(__file__).with_name("javascript")
DOC = Path(__file__).parents[2] / "docs" / "how-to" / "use-fal-clients.md"
TIMEOUT_S = 240.0

BY_FETCH = """
fal.config({ credentials: KEY, fetch: (url, init) => fetch(here(String(url)), init) });
"""

BY_PROXY_URL = """
import { fal } from "@fal-ai/client";
fal.config({ credentials: KEY, proxyUrl: { url: HERE, when: "always" } });
"""


def documented_program(address: Address) -> str:
    """Program of the documentation, for this installation."""
    section = DOC.read_text().partition("## fal's JavaScript client")[2]
    match = re.search(r"```javascript\n(.+?)```", section, re.S)
    assert match is not None
    program = match[1]
    for stands_for, what in (("http://127.0.0.1:8000", address.url), ("id:secret", address.key)):
        assert stands_for in program
        program = program.replace(stands_for, what)
    return program


def program(way: str, address: Address) -> str:
    """Module that points the client at ``address``."""
    key = json.dumps(address.key)
    match way:
        case "fetch":
            return documented_program(address).partition("fal.config(")[0] + BY_FETCH.replace(
                "KEY", key
            )
        case "middleware":
            return documented_program(address)
        case path:  # of the proxy
            url = json.dumps(address.url + path)
            return BY_PROXY_URL.replace("KEY", key).replace("HERE", url)


@pytest.fixture(scope="module", params=["middleware", "fetch", "/fal/proxy"])
def results(
    request: pytest.FixtureRequest,
    darkroom_address: Address,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """Result of each call."""
    folder = tmp_path_factory.mktemp("javascript")
    lines = ran("calls.mjs", request.param, darkroom_address, folder)
    return {line["name"]: line for line in lines}


def ran(script: str, way: str, address: Address, folder: Path) -> list[dict[str, Any]]:
    """Output of a script, a line of JSON each."""
    (folder / "node_modules").symlink_to(packages(HERE))
    setup = folder / "setup.mjs"
    setup.write_text(program(way, address))
    done = subprocess.run(
        [node(), HERE / script, setup, way],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.variants(1)
def test_run(results: dict[str, Any]) -> None:
    assert results["run"]["value"]["echo"] == {"a": "é"}


@pytest.mark.variants(1)
def test_subscribe(results: dict[str, Any]) -> None:
    value = results["subscribe"]["value"]
    assert value["echo"] == 9
    assert value["ids"] == [value["requestId"]]
    assert value["last"] == "COMPLETED"


def test_subscribe_by_a_stream_of_statuses(results: dict[str, Any]) -> None:
    value = results["streamed status"]["value"]
    assert (value["echo"], value["last"]) == (10, "COMPLETED")


def test_submit_status_and_result(results: dict[str, Any]) -> None:
    value = results["queue"]["value"]
    assert (value["status"], value["logged"], value["echo"]) == ("COMPLETED", True, 11)


def test_cancel(results: dict[str, Any]) -> None:
    assert results["cancel"]["error"]["status"] == 499


def test_a_wrong_field_is_a_validation_error_of_the_client(results: dict[str, Any]) -> None:
    error = results["wrong field"]["error"]
    assert (error["name"], error["status"]) == ("ValidationError", 422)
    assert error["body"]["detail"][0]["loc"] == ["body", "num_inference_steps"]


def test_a_failed_request_rejects_with_its_message(results: dict[str, Any]) -> None:
    error = results["failed"]["error"]
    assert (error["name"], error["status"]) == ("ApiError", 500)
    assert "No paint." in json.dumps(error["body"])


def test_upload(results: dict[str, Any]) -> None:
    value = results["upload"]["value"]
    assert (value["type"], value["content"]) == ("image/png", "abc")


def test_files_in_an_input_are_uploaded_first(results: dict[str, Any]) -> None:
    value = results["nested upload"]["value"]
    assert (value["one"], value["two"]) == ("one", "two")
    assert value["list"][0].endswith("/b.mp4")


@pytest.mark.parametrize("way", ["middleware", "/fal/proxy"])
def test_a_large_upload_goes_in_parts(way: str, tmp_path: Path) -> None:
    with serve() as address:
        (value,) = ran("large_upload.mjs", way, address, tmp_path)
    assert value["size"] == 91 * 2**20
    assert value["seam"] == value["wanted"]
    assert value["url"].endswith("/video.webm")


def test_a_file_with_access_rules_is_read_by_its_signed_url_only(results: dict[str, Any]) -> None:
    assert results["private upload"]["value"] == {"signed": 200, "text": "abc", "bare": 403}


@pytest.mark.parametrize("name", ["stream", "iterated stream"])
def test_the_last_event_of_a_stream_is_its_output(results: dict[str, Any], name: str) -> None:
    seen = results[name]["value"]["seen"]
    statuses = {update["status"] for update in seen[:-1]}
    assert statuses
    assert statuses <= {"IN_QUEUE", "IN_PROGRESS"}
    assert seen[-1]["echo"] in (12, 13)
    if name == "stream":
        assert results[name]["value"]["last"] == seen[-1]
        assert results[name]["value"]["requestId"] == seen[0]["request_id"]


def test_a_stream_with_a_token_of_its_own(
    results: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    if "fetch" not in request.node.callspec.id:
        pytest.skip("This way of the client's passes by the middleware")
    assert results["stream with a token"]["value"]["last"]["echo"] == 14


def test_a_wrong_field_rejects_a_stream_as_it_does_a_run(results: dict[str, Any]) -> None:
    error = results["wrong stream"]["value"]["error"]
    assert (error["name"], error["status"]) == ("ValidationError", 422)


def test_a_stream_that_fails_in_the_middle_rejects_and_has_said_why(
    results: dict[str, Any],
) -> None:
    value = results["failed stream"]["value"]
    assert value["error"]["name"] == "ApiError"
    assert value["seen"][-1]["detail"] == "No paint."


def test_aborting_a_stream_cancels_its_request(results: dict[str, Any]) -> None:
    assert results["aborted stream"]["error"]["status"] == 499
