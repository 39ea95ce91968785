"""The adapters of one attempt: held while it runs, and told by the names that its owner knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.adapter_cache import HeldFile
from deployments.adapter_fetching import AdapterFetcher, Fetched
from deployments.adapter_input import FIELD, AskedAdapter
from serve_app.domain.errors import AdapterRefused, InvalidInput

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.adapter import Adapter


class AdapterUse:
    """``release`` it at the end, however that comes."""

    def __init__(self, fetcher: AdapterFetcher) -> None:
        self._fetcher = fetcher
        self._held: list[HeldFile] = []
        self._fetched: Sequence[Fetched] = ()

    async def fetch(self, asked: Sequence[AskedAdapter], files_url: str) -> None:
        """``InvalidInput`` names the field of what cannot be had."""
        self._fetched = await self._fetcher.hold(asked, self._held, files_url)

    def adapters(self) -> list[Adapter]:
        """For the engine, in the order of the input."""
        from deployments.engine.adapter import Adapter  # noqa: PLC0415

        return [Adapter(each.file, each.asked.scale) for each in self._fetched]

    def as_owners_error(self, error: AdapterRefused) -> InvalidInput:
        """What the engine finds wrong with a file is the fault of the field that names it."""
        if error.number is None:
            return InvalidInput.of_field(FIELD, error.message, "unsupported_file")
        fetched = self._fetched[error.number]
        message = error.message.replace(f" {fetched.file}", "")  # a path of ours
        return InvalidInput.of_field(fetched.asked.field, message, "unsupported_file")

    def release(self) -> None:
        held, self._held = self._held, []
        for each in held:
            each.release()
