"""A network in which each node of a cluster has an address of its own and can be cut off: a bridge,
and a network namespace for each node. It needs root on Linux, and `ip`."""

from __future__ import annotations

import ctypes
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path

HEAD = "10.77.0.1"
"""Address of the bridge: of the head, and of what the tests serve for the nodes."""

RAY_METRICS_PORT = 9109
"""Port of Ray's metrics on each node."""

BRIDGE = "darkroom"
CLONE_NEWNET = 0x40000000
MAKE = f"""
ip link set lo up
ip link add {BRIDGE} type bridge
ip address add {HEAD}/24 dev {BRIDGE}
ip link set {BRIDGE} up
"""
RAYLET = r"""#!/bin/sh
# Runs a raylet, with all that it starts, in a network namespace of its own.
set -eu
for argument; do
    case $argument in --node_ip_address=*) address=${{argument#*=}} ;; esac
done
[ "$address" != {head} ] || exec {raylet} "$@"
port=n${{address##*.}}
if [ -z "${{BRIDGED_BY-}}" ]; then
    export BRIDGED_BY=$PPID
    exec unshare --net "$0" "$@"
fi
nsenter --net="/proc/$BRIDGED_BY/ns/net" sh -euc "
    ip link add $port type veth peer name eth0 netns $$
    ip link set $port master {bridge} up"
unset BRIDGED_BY
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
exec {raylet} "$@"
"""


def isolate() -> bool:
    """Move this process, and what it starts from now on, into a network of their own with a bridge.
    The network goes with the last process in it. False if this machine does not permit it."""
    with suppress(FileNotFoundError):
        result = subprocess.run(
            ["unshare", "--net", "sh", "-euc", MAKE], check=False, capture_output=True
        )
        if result.returncode == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0:
            subprocess.run(["sh", "-euc", MAKE], check=True)
            return True
    return False


def write_raylet(folder: Path, raylet: str) -> Path:
    """Write a script that takes the place of the binary ``raylet``. Its nodes have addresses of the
    bridge."""
    script = folder / "raylet"
    script.write_text(RAYLET.format(raylet=shlex.quote(raylet), head=HEAD, bridge=BRIDGE))
    script.chmod(0o700)
    return script


def address(number: int) -> str:
    """Address of a node, which are numbered from 2."""
    return f"{HEAD.rpartition('.')[0]}.{number}"


def cut_off(node: str) -> None:
    """Let no packet pass between the node with this address and all others, without a word."""
    subprocess.run(["ip", "link", "set", _port(node), "nomaster"], check=True)


def heal(node: str) -> None:
    """The opposite of ``cut_off``. The port is gone if all processes of the node have ended."""
    command = ["ip", "link", "set", _port(node), "master", BRIDGE]
    subprocess.run(command, check=False, capture_output=True)


def _port(node: str) -> str:
    return f"n{node.rpartition('.')[2]}"
