"""Addresses that clients name: Darkroom calls none that only its own network can reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.attempts import Attempts
from tests.attacks.scene import Scene

pytestmark = pytest.mark.cluster

METADATA = ("169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "192.0.0.192")


def addresses(port: int) -> Iterator[str]:
    """Ways to write this machine and those of its network."""
    yield from (
        f"http://{host}:{port}/x"
        for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0")  # noqa: S104
    )
    yield from (
        f"http://{host}:{port}/x" for host in ("2130706433", "0x7f.1", "0177.0.0.1", "127.1")
    )
    yield from (f"http://{host}:{port}/x" for host in ("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"))
    yield f"http://example.com@127.0.0.1:{port}/x"
    yield from (f"http://{host}/latest/meta-data/" for host in METADATA)


def test_webhooks_reach_no_private_address(scene: Scene, attempts: Attempts) -> None:
    with scene.client(scene.attacker["submit"]) as http:
        for address in addresses(scene.inside.port):
            answer = http.post(
                "/queue/test/probe", params={"fal_webhook": address}, json={"artifacts": 1}
            )
            attempts.note(f"{address}: {answer.status_code}", held=400 <= answer.status_code < 500)
