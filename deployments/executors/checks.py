"""The operator's safety policy for files of apps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deployments.families.base import Product
from deployments.safety.checkers import Checkers
from deployments.safety.outputs import Decision, OutputPolicy
from deployments.transfer.uploader import MediaFile
from serve_app.domain.errors import ContentBlocked
from serve_app.domain.lease import Lease
from serve_app.domain.ports import SafetyLog

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


class OutputChecks:
    """Checks of the files of one attempt, as of those that the engine has made."""

    def __init__(
        self,
        lease: Lease,
        checkers: Checkers | None = None,
        safety_log: SafetyLog | None = None,
    ) -> None:
        """``checkers``: None if there are none; then nothing passes that a rule wants checked."""
        self._lease = lease
        self._checkers = checkers
        self._safety_log = safety_log

    async def check(
        self, output: Mapping[str, Any], files: Sequence[MediaFile]
    ) -> tuple[Mapping[str, Any], list[MediaFile]]:
        """Output and files as they may be delivered. Raises ``ContentBlocked``."""
        lease = self._lease
        if self._checkers is None:
            raise ContentBlocked(
                "Files cannot be checked here, and the operator's safety policy demands it for "
                "this endpoint. The operator can leave the endpoint out of the policy."
            )
        prompt = str(lease.input.get("prompt") or "")
        policy = OutputPolicy(lease.output_rules, self._checkers, prompt)
        try:
            # It imports torch in this process, where a classifier or a video asks for that.
            product, decisions = await asyncio.to_thread(
                policy.apply, Product(output, files), _encode_image
            )
        except ContentBlocked as error:
            await self._report((Decision("", "block", error.message),))
            raise
        await self._report(decisions)
        return product.output, list(product.files)

    async def _report(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            log.info("Safety policy: %s", decision)
        if decisions and self._safety_log is not None:
            plain = tuple(asdict(entry) for entry in decisions)
            await self._safety_log.report_decisions(self._lease.key, plain)


def _encode_image(image: Image, media_type: str) -> bytes:
    from deployments.engine.media.images import encode  # noqa: PLC0415

    return encode(image, media_type)
