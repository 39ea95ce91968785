"""Everything that webhooks take, of one ingress process."""

from __future__ import annotations

from serve_app.domain.addresses import Resolve
from serve_app.domain.ports import Clock
from serve_app.domain.webhook import Outbox, SigningSeeds
from serve_app.settings import Config
from serve_app.telemetry.metrics import Metrics
from serve_app.webhooks.courier import Compose, Courier, Rules
from serve_app.webhooks.sending import Sender
from serve_app.webhooks.signing import Signer
from serve_app.webhooks.target import Targets


class Webhooks:
    """``outbox`` and ``seeds`` are those of the installation; ``resolve`` finds receivers."""

    def __init__(
        self,
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
        rules = Rules(config.webhook_waits_s, config.webhook_give_up_s)
        self._courier = Courier(outbox, compose, self.sender, clock, rules, metrics)

    async def start(self) -> None:
        await self.signer.keys()  # made now, if there are none
        await self.sender.start()
        self._courier.start()

    async def aclose(self) -> None:
        await self._courier.aclose()
        await self.sender.aclose()
