"""The network in which nodes can be cut off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.darkroom import ROOT

pytestmark = pytest.mark.cluster

NODE = """#!/bin/sh
exec {python} -m http.server --bind 0.0.0.0 8000 >/dev/null 2>&1
"""
LOOK = """
import socket, subprocess, sys
from pathlib import Path
from tests.cluster import network
from tests.cluster.darkroom import eventually

def reached():
    try:
        socket.create_connection((node, 8000), timeout=1).close()
    except OSError:
        return False
    return True

if not network.isolate():
    print("not permitted")
    sys.exit()
node = network.address(2)
folder = Path(sys.argv[1])
raylet = network.write_raylet(folder, str(folder / "node"))
process = subprocess.Popen([raylet, f"--node_ip_address={node}"])
try:
    eventually(reached, "the node serves", 30)
    network.cut_off(node)
    print("cut off:", reached())
    network.heal(node)
    eventually(reached, "the node is reached again", 30)
finally:
    process.kill()
    process.wait()
"""


@pytest.mark.long
def test_a_node_that_is_cut_off_answers_nothing_until_its_network_heals(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.write_text(NODE.format(python=sys.executable))
    node.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )
    if "not permitted" in done.stdout:
        pytest.skip("this machine permits no network namespaces")
    assert done.stdout == "cut off: False\n"
