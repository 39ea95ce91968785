"""Darkroom for the tests of the operator's view: a pool with a replica that loads a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from playwright.sync_api import Locator, Page, expect

from serve_app.domain.progress import Loading, Stage, to_plain
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.settings import PoolConfig
from tests.page.darkroom import PageDarkroom
from tests.page.reader import FLUX, Reader

POOL = "studio"
REPLICA: Mapping[str, Any] = {
    "replica_id": "r-1",
    "pool": POOL,
    "stage": "ready",
    "detail": "",
    "loading": to_plain([Loading((FLUX,), Stage.LOADING, 3_000_000_000, 12_000_000_000)]),
    "slots": 2,
    "hot": ["test/probe"],
    "warm": [],
    "on_disk": ["test/probe", FLUX],
    "keep": [],
    "not_kept": [],
    "node": "10.0.0.7",
    "device": "NVIDIA L4",
    "memory_used": 18_250_000_000,
    "memory_total": 24_000_000_000,
    "seen_s": 0.5,
    "quarantine": "",
}


def give_pool(darkroom: PageDarkroom) -> list[Mapping[str, Any]]:
    """Configure a pool. Returns the list of its replicas, which the test may change."""
    replicas = [REPLICA]

    async def seen() -> list[Mapping[str, Any]]:
        return replicas

    async def targets(_pools: object) -> dict[str, int]:
        return {POOL: 1}

    services = darkroom.house.services
    services.health = replace(services.health, replicas=seen, targets=targets)
    families = ("flux", "probe")
    pool = PoolConfig(families=families, min_replicas=0, max_replicas=4, num_gpus=0)
    services.pools = PoolMap({POOL: pool})
    return replicas


class Operator:
    """User of the operator's view."""

    def __init__(self, page: Page, darkroom: PageDarkroom) -> None:
        self.page = page
        self.darkroom = darkroom
        Reader(page, darkroom).enter()

    def open(self, part: str) -> None:
        self.page.get_by_role("link", name="Operate").click()
        tab = self.page.get_by_role("navigation", name="Parts").get_by_role("link", name=part)
        tab.click()
        expect(tab).to_have_attribute("aria-current", "page")

    def row(self, table: str, words: str) -> Locator:
        return self.table(table).get_by_role("row").filter(has_text=words)

    def table(self, name: str) -> Locator:
        return self.page.get_by_role("table", name=name, exact=True)

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def expect_said(self, words: str) -> None:
        expect(self.page.locator(".said")).to_contain_text(words)
