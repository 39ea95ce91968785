"""Everything that webhooks take, of one ingress process."""

from __future__ import annotations

from serve_app.domain.addresses import Resolve
from serve_app.domain.ports import Clock, Queue
from serve_app.domain.webhook import Claimed, Outbox, SigningSeeds
from serve_app.settings import Config
from serve_app.telemetry.metrics import Metrics
from serve_app.webhooks.courier import Compose, Courier, Rules
from serve_app.webhooks.herald import Herald
from serve_app.webhooks.sending import Sender
from serve_app.webhooks.signing import Signer
from serve_app.webhooks.target import Targets


class Webhooks:
    """``queue``, ``outbox`` and ``seeds`` are those of the installation; ``resolve`` finds
    receivers."""

    def __init__(
        self,
        queue: Queue,
        outbox: Outbox,
        seeds: SigningSeeds,
        compose: Compose,
        config: Config,
        clock: Clock,
        metrics: Metrics,
        resolve: Resolve,
    ) -> None:
        allow_private = config.allow_private_webhooks
        self.outbox = outbox
        self.seeds = seeds
        self.signer = Signer(seeds, clock)
        self.targets = Targets(resolve, allow_private=allow_private)
        self.sender = Sender(resolve, self.signer, clock, allow_private=allow_private)
        self._heralds = Sender(resolve, self.signer, clock, allow_private=allow_private)
        self.herald = Herald(queue, self._heralds, clock, metrics)

        async def at_last(claimed: Claimed) -> bytes:
            return await compose(await self.herald.silenced(claimed))

        rules = Rules(config.webhook_waits_s, config.webhook_give_up_s)
        self._courier = Courier(outbox, at_last, self.sender, clock, rules, metrics)

    async def start(self) -> None:
        await self.signer.keys()  # made now, if there are none
        await self.sender.start()
        await self._heralds.start()
        self._courier.start()

    async def aclose(self) -> None:
        await self.herald.aclose()
        await self._courier.aclose()
        await self._heralds.aclose()
        await self.sender.aclose()
