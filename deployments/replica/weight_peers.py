"""Exchange of weights between nodes: what this node offers, and the search for what it lacks."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.lease import WeightOffer
from serve_app.domain.ports import Clock, PeerDirectory
from weights.folder import default_directory
from weights.peer_server import PeerServer
from weights.peers import Found, Peers

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
"""Between two looks whether this node has other weights than it has offered."""

OFFER_EVERY_S = 60.0
CALL_S, WITHDRAW_S = 10.0, 2.0


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A replica as a source of weights."""

    replica_id: str
    node_id: str  # Ray's: replicas of one node share its weights
    host: str  # address of the node for others


class WeightExchange:
    """Server of this node's weights, and finder of other nodes. Call the ``async`` methods on one
    event loop. Failures are logged: weights then come from the mirror or the hub."""

    def __init__(
        self,
        directory: PeerDirectory,
        identity: PeerIdentity,
        config: StoreConfig,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._identity = identity
        self._clock = clock
        self._server = PeerServer(
            config.directory or default_directory(), config.peers, config.peer_bytes_per_s
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offering: asyncio.Task[None] | None = None
        self._offered: tuple[str, ...] | None = None
        self._url = ""

    async def start(self) -> None:
        """Listen on the node's address, and offer what is there."""
        self._loop = asyncio.get_running_loop()
        host = self._identity.host
        try:
            await asyncio.to_thread(self._server.start, host)
        except OSError as error:
            log.warning("Weights are not sent to other nodes: %s cannot be bound: %s.", host, error)
            return
        shown = f"[{host}]" if ":" in host else host
        self._url = f"http://{shown}:{self._server.port}"
        self._offering = asyncio.create_task(self._offer_for_ever(), name="weight offers")

    async def aclose(self) -> None:
        """Withdraw the offer and stop sending."""
        if self._offering is not None:
            self._offering.cancel()
            await asyncio.gather(self._offering, return_exceptions=True)
            self._url = ""
            await self._try_offer((), WITHDRAW_S)
        await asyncio.to_thread(self._server.close)

    def source(self, repository: str, revision: str) -> Peers:
        """Other nodes as a source of these weights, for other threads than the event loop's."""
        name = f"{repository}@{revision}"
        return Peers(lambda: self.find(name), self._identity.replica_id, self._clock)

    def find(self, name: str) -> Found:
        """Other nodes with ``owner/name@commit``. None are found if the ingress is not reached."""
        if self._loop is None:
            return Found()
        search = asyncio.run_coroutine_threadsafe(self._find(name), self._loop)
        try:
            urls = search.result(2 * CALL_S)  # the loop itself may have ended
        except Exception as error:
            # Whatever it is: the mirror and the hub are next.
            log.warning("Other nodes cannot be asked for %s: %r", name, error)
            return Found()
        return Found(urls, self._server.key)

    async def _find(self, name: str) -> tuple[str, ...]:
        async with asyncio.timeout(CALL_S):
            if not self._server.key:
                await self._offer(self._offered or ())
            return await self._directory.weight_peers(self._identity.node_id, name)

    async def _offer_for_ever(self) -> None:
        offer_at = 0.0
        while True:
            weights = await asyncio.to_thread(self._server.weights)
            now = asyncio.get_running_loop().time()
            if weights != self._offered or now >= offer_at:
                await self._try_offer(weights)
                offer_at = now + OFFER_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)

    async def _try_offer(self, weights: tuple[str, ...], within_s: float = CALL_S) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._offer(weights)
        except Exception as error:
            # The ingress restarts, or its database is away: the next offer is soon.
            log.info("The offer of weights did not reach the ingress: %r", error)

    async def _offer(self, weights: tuple[str, ...]) -> None:
        identity = self._identity
        offer = WeightOffer(identity.replica_id, identity.node_id, self._url, weights)
        self._server.key = await self._directory.offer_weights(offer)
        self._offered = weights
