"""``darkroom watch-spot`` and ``darkroom drain-node``: drain this node before it ends."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import click

from serve_app.cli.connection.numbers import FiniteNumber
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.text import echo
from serve_app.domain.errors import DarkroomError, Misconfigured, Unavailable
from serve_app.scaling.spot_notices import NoticeSource, SpotNotice, source_of
from serve_app.telemetry.clock import SystemClock

MARGIN = timedelta(seconds=5)
"""The node is left so long before the machine ends."""
LEAST = timedelta(seconds=5)
"""Shortest time that a drain gets, also if the notice is late."""

MOST_S = 7 * 86400.0
"""Longest time of `drain-node`."""


class RayNode:
    """This machine's node of a Ray cluster."""

    def __init__(self, address: str | None, node_id: str | None) -> None:
        """``address``: of the cluster's GCS; None: of the cluster that runs here. ``node_id``:
        None if one node runs on this machine. Raises ``Misconfigured``."""
        # Importing Ray takes a second, which other commands need not wait for.
        from ray._private import services  # noqa: PLC0415
        from ray._raylet import GcsClient  # noqa: PLC0415  # pyrefly: ignore[missing-module-attribute]
        from ray.exceptions import RaySystemError, RpcError  # noqa: PLC0415

        try:
            self._address = address or services.canonicalize_bootstrap_address_or_die("auto")
            self._gcs = GcsClient(address=self._address)
        except (TypeError, ValueError) as error:  # of Ray's parser of addresses
            raise Misconfigured(
                f"{self._address} is no address of Ray's GCS. Use --address HOST:PORT."
            ) from error
        except ConnectionError as error:
            raise Misconfigured(
                "Ray does not run on this machine. Name the cluster with --address HOST:PORT."
            ) from error
        except (RaySystemError, RpcError) as error:
            raise Misconfigured(f"Ray's GCS at {self._address} does not answer: {error}") from error
        self._given_id = node_id
        self._drained_id = ""

    def drain(self, notice: SpotNotice, deadline_ms: int) -> None:
        """Tell Ray that the node ends. Raises ``Unavailable`` if Ray refuses, or is not there."""
        from ray.core.generated import autoscaler_pb2  # noqa: PLC0415

        id_ = self.current_id()
        reasons: Any = autoscaler_pb2  # generated, without types
        reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        try:
            accepted, refusal = self._gcs.drain_node(id_, reason, notice.words, deadline_ms)
        except Exception as error:
            raise Unavailable(f"Ray at {self._address} does not answer: {error}") from error
        if not accepted:
            raise Unavailable(f"Ray refused to drain the node: {refusal}")
        self._drained_id = id_

    def has_left(self) -> bool:
        """True if Ray has ended the node, which it does when nothing runs there any more, or at the
        deadline. False while Ray does not answer."""
        try:
            nodes: Any = self._gcs.get_all_node_info()
        except Exception:  # the head may just be starting again
            return False
        own = self._drained_id
        return not any(id_.hex() == own and node.state == node.ALIVE for id_, node in nodes.items())

    def current_id(self) -> str:
        """Id of the node, which is another one after Ray was started again. Raises
        ``Misconfigured``."""
        import ray.util  # noqa: PLC0415

        if self._given_id is not None:
            return self._given_id
        here = ray.util.get_node_ip_address()
        nodes: Any = self._gcs.get_all_node_info()
        node_ids = [
            id_.hex()
            for id_, node in nodes.items()
            if node.node_manager_address == here and node.state == node.ALIVE
        ]
        if len(node_ids) != 1:
            raise Misconfigured(
                f"{len(node_ids)} nodes of Ray run at {here}. Name one with --node-id."
            )
        return node_ids[0]


_address = click.option(
    "--address",
    metavar="HOST:PORT",
    default=None,
    help="GCS of the Ray cluster. Default: that of this machine.",
)
_node_id = click.option(
    "--node-id", metavar="ID", default=None, help="Node of Ray. Default: that of this machine."
)


@click.command("watch-spot")
@click.option(
    "--cloud",
    type=click.Choice(["aws", "gcp", "azure"]),
    default=None,
    help="Cloud of this machine. Default: the one whose metadata service answers.",
)
@_address
@_node_id
@click.option(
    "--metadata-url", metavar="URL", default=None, help="Address of the metadata service."
)
def watch_spot_command(
    cloud: str | None, address: str | None, node_id: str | None, metadata_url: str | None
) -> None:
    """Drain this node when its cloud takes the machine away.

    Run it on each spot node beside Ray. When the notice comes, the replicas on the node hand their
    requests over with their snapshots, no request fails, and the command ends.
    """
    source = source_of(cloud, metadata_url, SystemClock())
    node = RayNode(address, node_id)
    echo(f"Watching for spot notices of {source.name}, for the node {node.current_id()}.")
    wait = threading.Event().wait
    notice = _notice(source, wait)
    echo(f"{notice.words}, at {notice.at:%H:%M:%S} UTC. The node is drained.")
    _drain(node, notice, wait, None)
    echo("The replicas of the node hand their requests over.")


@click.command("drain-node")
@click.option(
    "--within",
    type=FiniteNumber(LEAST.total_seconds(), MOST_S),
    metavar="SECONDS",
    default=50.0,
    show_default=True,
    help="Time until the node ends. Replicas work until graceful_shutdown_timeout_s (20 s) before.",
)
@_address
@_node_id
def drain_node_command(within: float, address: str | None, node_id: str | None) -> None:
    """Drain this node, and wait until it is empty.

    For the preStop hook of a pod, or before maintenance. The replicas hand their requests over with
    their snapshots, and no request fails. The command ends when the node has left Ray, or after
    --within.
    """
    clock = SystemClock()
    ends = clock.now() + timedelta(seconds=within)
    wait = threading.Event().wait
    node = RayNode(address, node_id)
    _drain(node, SpotNotice(ends, "darkroom drain-node"), wait, ends)
    echo(f"The node is drained until {ends:%H:%M:%S} UTC.")
    with ProgressLine("Replicas finish or hand their requests over"):
        while not node.has_left() and clock.now() < ends:
            wait(0.5)


def _drain(node: RayNode, notice: SpotNotice, wait: Any, until: datetime | None) -> None:
    """Drain the node, and try again while Ray does not answer: it may just be starting again.
    Raises its error after ``until``."""
    while True:
        try:
            node.drain(notice, _deadline_ms(notice))
        except (Misconfigured, Unavailable) as error:
            if until is not None and SystemClock().now() >= until:
                raise
            echo(f"{error.message} Trying again.", err=True)
            wait(1.0)
        else:
            return


def _notice(source: NoticeSource, wait: Any) -> SpotNotice:
    """The next notice. A service that does not answer is asked again, and named once."""
    problem = ""
    while True:
        try:
            if (notice := source.read()) is not None:
                return notice
            problem = ""
        except DarkroomError as error:
            if error.message != problem:
                problem = error.message
                echo(f"{problem} Trying again.", err=True)
        wait(source.every_s)


def _deadline_ms(notice: SpotNotice) -> int:
    """Time by which the node is to be empty, in milliseconds since 1970."""
    soonest = SystemClock().now() + LEAST
    return int(max(notice.at - MARGIN, soonest).timestamp() * 1000)
