"""Webhooks of an ingress process: their limits, their bodies by protocol, and their sending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.domain.addresses import Resolve
from serve_app.domain.errors import Overloaded
from serve_app.domain.ports import Clock, Queue
from serve_app.domain.rest import Rest
from serve_app.domain.webhook import ClaimedDelivery, Outbox, SigningSeeds
from serve_app.settings import Config
from serve_app.telemetry.metrics import Metrics
from serve_app.webhooks.delivery import Compose, DeliveryWorker, Renew, RetryRules
from serve_app.webhooks.notices import NoticeDelivery
from serve_app.webhooks.progress import ProgressNotifier
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import Signer
from serve_app.webhooks.target import Targets

if TYPE_CHECKING:  # it imports OpenTelemetry's SDK
    from serve_app.telemetry.tracing import Tracing

MAX_BODY_BYTES = 2 * 2**20
"""Largest body. Receivers refuse larger ones, and each body that is being sent is in memory."""

OUTCOME_WAIT_S = 5.0
"""Longest wait in seconds for an end that another process has recorded."""


TESTS_AT_ONCE = 2
"""Tests that a tenant may send at once. They share the connections of all webhooks, and receivers
that do not answer would hold them."""


@dataclass(frozen=True, slots=True)
class ComposeByMark:
    """Builds each body in the format of the protocol that requested the webhook.

    ``marked``: suffix of the webhook's origin → the protocol's builder. Others use ``default``.
    ``renew``: signs the URLs of private files in a stored body again.
    """

    default: Compose
    marked: Mapping[str, Compose]
    renew: Renew

    async def __call__(self, claimed: ClaimedDelivery) -> bytes:
        for mark, compose in self.marked.items():
            if claimed.origin.endswith(mark):
                return await compose(claimed)
        return await self.default(claimed)


class Webhooks:
    """Webhooks of one ingress process.

    ``queue``, ``outbox`` and ``seeds`` are the installation's; ``resolve`` looks up the receivers'
    host names.
    """

    def __init__(
        self,
        queue: Queue,
        outbox: Outbox,
        seeds: SigningSeeds,
        compose: ComposeByMark,
        config: Config,
        clock: Clock,
        metrics: Metrics,
        resolve: Resolve,
    ) -> None:
        allow_private = config.webhooks.allow_private_webhooks
        self.outbox = outbox
        self.resolve = resolve
        self.seeds = seeds
        self.signer = Signer(seeds, clock)
        self.targets = Targets(resolve, allow_private=allow_private)
        self.sender = Sender(resolve, self.signer, clock, allow_private=allow_private)
        self._progress_sender = Sender(resolve, self.signer, clock, allow_private=allow_private)
        self.notifier = ProgressNotifier(queue, self._progress_sender, clock, metrics)

        async def at_last(claimed: ClaimedDelivery) -> bytes:
            return await compose(await self.notifier.wait_until_silent(claimed))

        rules = RetryRules(config.webhooks.webhook_waits_s, config.webhooks.webhook_give_up_s)
        self._delivery = DeliveryWorker(
            outbox, at_last, self.sender, clock, rules, metrics, compose.renew
        )
        self.notices = NoticeDelivery(self.sender, rules.waits_s)
        self._tests: Counter[str] = Counter()

    @contextmanager
    def one_test(self, tenant: str) -> Generator[None]:
        """Count a test while the block runs. ``Overloaded``: the tenant has as many as it may."""
        if self._tests[tenant] >= TESTS_AT_ONCE:
            raise Overloaded(
                f"{TESTS_AT_ONCE} tests of webhooks run already. Wait until one of them has ended.",
                reason="webhook_tests",
            )
        self._tests[tenant] += 1
        try:
            yield
        finally:
            self._tests[tenant] -= 1
            if not self._tests[tenant]:
                del self._tests[tenant]

    def record_spans(self, tracing: Tracing | None) -> None:
        """Record a span for each try from now on; None: record none."""
        self._delivery.tracing = tracing

    async def start(self, rest: Rest | None = None) -> None:
        """``rest``: None if due webhooks are never looked for less often."""
        await self.signer.keys()  # creates them if there are none
        await self.sender.start()
        await self._progress_sender.start()
        self._delivery.start(rest)

    async def aclose(self) -> None:
        await self.notifier.aclose()
        await self._delivery.aclose()
        await self._progress_sender.aclose()
        await self.sender.aclose()
