"""fal's JavaScript client, unmodified, in a Node.js that cannot use a proxy."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.commands.environment import REDIRECT
from tests.node import node, packages
from tests.wire.served import Address, serve

pytestmark = pytest.mark.wire

HERE = Path(__file__).with_name("javascript")
REFUSED = """
import https, { request } from "node:https";
import { get } from "node:http";

const calls = {
  url: () => https.request("https://queue.fal.run/x"),
  options: () => request({ hostname: "rest.fal.ai", path: "/x" }),
  port: () => https.get({ host: "fal.run:443" }),
  both: () => request(new URL("https://v3.fal.media/x"), { method: "PUT" }),
  http: () => get("http://fal.run."),
};
for (const [name, call] of Object.entries(calls)) {
  try {
    call();
    console.log(name, "was sent");
  } catch (error) {
    console.log(name, error.message);
  }
}
const other = await fetch(`${process.env.FAL_PLAIN_HTTP}/healthz`);
console.log("own", other.status);
"""


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve() as address:
        yield address


def ran(address: Address, *program: str | Path) -> list[str]:
    """Lines that a program prints whose variables are those of `darkroom env`."""
    done = subprocess.run(
        [node(), *program],
        env={
            "PATH": os.defpath,
            "FAL_KEY": address.key,
            "FAL_PLAIN_HTTP": address.url,
            "NODE_OPTIONS": f"--require={REDIRECT}",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def results(address: Address, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "node_modules").symlink_to(packages(HERE))
    nothing = folder / "nothing.mjs"
    nothing.write_text("")
    lines = [json.loads(text) for text in ran(address, HERE / "calls.mjs", nothing, "fetch")]
    return {line["name"]: line for line in lines}


def test_calls_and_their_errors_are_those_of_darkroom(results: dict[str, Any]) -> None:
    assert results["run"]["value"]["echo"] == {"a": "é"}
    assert results["subscribe"]["value"]["last"] == "COMPLETED"
    assert results["cancel"]["error"]["status"] == 499
    assert results["wrong field"]["error"]["name"] == "ValidationError"


def test_files_are_uploaded_to_darkroom(results: dict[str, Any], address: Address) -> None:
    value = results["upload"]["value"]
    assert (value["type"], value["content"]) == ("image/png", "abc")
    assert value["url"].startswith(address.url)
    assert results["nested upload"]["value"]["two"] == "two"


def test_streams_come_from_darkroom_and_end_with_their_reader(results: dict[str, Any]) -> None:
    assert results["stream"]["value"]["last"]["echo"] == 12
    assert results["stream with a token"]["value"]["last"]["echo"] == 14
    assert results["aborted stream"]["error"]["status"] == 499


def test_what_cannot_be_sent_to_darkroom_is_not_sent_to_fal(
    address: Address, tmp_path: Path
) -> None:
    program = tmp_path / "refused.mjs"
    program.write_text(REFUSED)
    *refused, own = ran(address, program)
    assert [message.split()[0] for message in refused] == ["url", "options", "port", "both", "http"]
    assert all("Not sent to" in message and "22.21" in message for message in refused)
    assert own == "own 200"
