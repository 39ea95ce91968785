"""An app that does nothing, for ``benchmarks.executors``."""

from __future__ import annotations

import darkroom


class Noop(darkroom.App):
    concurrency = 64

    @darkroom.endpoint("/")
    async def noop(self, steps: int = 0, number: int = 0) -> dict[str, int]:
        return {"steps": steps, "number": number}
