"""Weights to nodes that start together: from the hub, and from nodes that have them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

NOTHING_GB = 1e-9


@dataclass(frozen=True, slots=True)
class Delivery:
    """Nodes and lines. Rates in GB/s."""

    nodes: int
    gb: float = 24.0
    files: int = 6
    hub_rate: float = 1.25  # of all nodes together: the line of the site
    hub_node_rate: float = 0.5  # of one node
    peers: int = 2  # nodes that a node sends to at once; 0: only the hub sends
    peer_rate: float = 0.5  # that a node sends, in total
    same_order: bool = False  # all nodes fetch the files in the same order


@dataclass(slots=True)
class Node:
    """A node that fetches one file after another."""

    lacking: list[int]  # in the order in which it fetches them
    files: set[int] = field(default_factory=set[int])
    file: int | None = None
    left_gb: float = 0.0
    source: Node | None = None  # None: the hub
    sends_to: int = 0
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    seconds: float  # until the last node was ready
    median_s: float
    hub_gb: float
    peer_gb: float
    most_sent_at_once: int


def deliver(delivery: Delivery, seed: int = 1) -> Delivered:
    """Deliver everything to all nodes, which start together and empty."""
    chance = random.Random(seed)
    files = range(delivery.files)
    nodes = [
        Node(list(files) if delivery.same_order else chance.sample(files, delivery.files))
        for _ in range(delivery.nodes)
    ]
    now, hub_gb, peer_gb, most = 0.0, 0.0, 0.0, 0
    while any(peer.ready_at is None for peer in nodes):
        for node in nodes:
            if node.lacking and node.file is None:
                _choose(node, nodes, delivery, chance)
        most = max(most, *(peer.sends_to for peer in nodes))
        fetching = [peer for peer in nodes if peer.file is not None]
        of_hub = sum(peer.source is None for peer in fetching)
        rates = [_rate(peer, of_hub, delivery) for peer in fetching]
        step_s = min(node.left_gb / rate for node, rate in zip(fetching, rates, strict=True))
        now += step_s
        for node, rate in zip(fetching, rates, strict=True):
            got = min(node.left_gb, rate * step_s)
            node.left_gb -= got
            if node.source is None:
                hub_gb += got
            else:
                peer_gb += got
        for node in fetching:
            if node.left_gb <= NOTHING_GB:
                _take(node, now)
    ready = sorted(peer.ready_at or 0.0 for peer in nodes)
    return Delivered(now, ready[len(ready) // 2], hub_gb, peer_gb, most)


def _rate(node: Node, of_hub: int, delivery: Delivery) -> float:
    """GB/s at which a node receives its file."""
    if node.source is None:
        return min(delivery.hub_node_rate, delivery.hub_rate / of_hub)
    return delivery.peer_rate / node.source.sends_to


def _choose(node: Node, nodes: list[Node], delivery: Delivery, chance: random.Random) -> None:
    node.file, node.left_gb, node.source = node.lacking.pop(0), delivery.gb / delivery.files, None
    having = [
        peer
        for peer in nodes
        if peer is not node and node.file in peer.files and peer.sends_to < delivery.peers
    ]
    if having:
        node.source = chance.choice(having)
        node.source.sends_to += 1


def _take(node: Node, now: float) -> None:
    if node.source is not None:
        node.source.sends_to -= 1
    if node.file is not None:
        node.files.add(node.file)
    node.file = None
    if not node.lacking:
        node.ready_at = now
