"""Weight repositories that an installation needs, and the part that is not downloaded yet."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.cli.commands import model_list
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import DarkroomError
from serve_app.resources.entries import ENTRIES
from serve_app.settings import Config, read_config
from weights.eviction import gigabytes
from weights.fetch import FetchPlan
from weights.store import Store, repositories_of

REVISION_DIGITS = 12  # number of digits shown of a commit
MAX_CONCURRENT_HUB_CALLS = 8  # concurrent calls to the hub


@dataclass(frozen=True, slots=True)
class Download:
    """One repository, with the facts to show before it is downloaded."""

    weights: Weights
    endpoints: tuple[Endpoint, ...]  # endpoints that use the repository
    plan: FetchPlan | None
    trouble: str = ""  # reason why there is no plan; empty if there is one

    @property
    def missing_bytes(self) -> int:
        return self.plan.missing_bytes if self.plan else 0

    @property
    def name(self) -> str:
        variant = f" ({self.weights.variant})" if self.weights.variant else ""
        return f"{self.weights.source}@{(self.weights.revision or '')[:REVISION_DIGITS]}{variant}"

    @property
    def licence(self) -> str:
        return ", ".join(dict.fromkeys(each.licence or "unknown" for each in self.endpoints))

    def lines(self, memory: int | None) -> Iterator[str]:
        """Description for a terminal.

        ``memory`` is the memory of the smallest GPU in bytes; None without a GPU.
        """
        yield f"{self.name}: {self.size()}"
        yield f"    for      {', '.join(each.id for each in self.endpoints)}"
        yield f"    licence  {self.licence}"
        for words in dict.fromkeys(
            model_list.recipe_text(each.recipes, memory) for each in self.endpoints if each.recipes
        ):
            yield f"    recipe   {words}"

    def size(self) -> str:
        if self.plan is None:
            return self.trouble
        total = f"{gigabytes(self.plan.total_bytes)} in {len(self.plan.files)} files"
        if not self.plan.missing:
            return f"{total}, all downloaded"
        return f"{gigabytes(self.missing_bytes)} to download, of {total}"

    def as_json(self, memory: int | None) -> dict[str, Any]:
        recipes = {each.id: each.recipe_for(memory) for each in self.endpoints if memory}
        return {
            "repository": self.weights.source,
            "revision": self.weights.revision,
            "variant": self.weights.variant,
            "endpoints": [each.id for each in self.endpoints],
            "licence": self.licence,
            "recipes": {of: chosen.memory_gb for of, chosen in recipes.items() if chosen},
            "files": len(self.plan.files) if self.plan else None,
            "total_bytes": self.plan.total_bytes if self.plan else None,
            "missing_bytes": self.plan.missing_bytes if self.plan else None,
            "error": self.trouble or None,
        }


def pull_command(data_dir: Path, *endpoints: str) -> str:
    """Command that downloads weights for the installation with this data directory."""
    words = ["darkroom", "models", "pull", *endpoints]
    if data_dir != read_config({}).server.data_dir:
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def chosen_endpoints(config: Config, ids: Sequence[str]) -> list[Endpoint]:
    """Endpoints with these ``ids``; without ids, all that real weights would serve here.

    Those of the database are known while Darkroom runs. Raises ``EndpointNotFound``.
    """
    # ``serve_app.app`` imports ray, which reads its flags when it is imported. Building the
    # catalogue's schemas is a fifth of the command line's start, and few commands need them.
    from serve_app.app import hosted_families  # noqa: PLC0415
    from serve_app.catalog import catalog  # noqa: PLC0415
    from serve_app.catalog.entries import EntryBuilder  # noqa: PLC0415

    families = None if ids else hosted_families(config)
    builder = EntryBuilder(demo=False, demo_dir=Path("/"), families=families)
    own, stored = catalog.read_file(config.models.models), _stored_entries(config)
    listed = catalog.combined(
        own, builder, [catalog.StoredEntry(name, entry) for name, entry in stored.items()]
    )
    if ids:
        return [listed.listed(each).endpoint for each in dict.fromkeys(ids)]
    return [each.endpoint for each in listed if not each.missing]


def _stored_entries(config: Config) -> dict[str, dict[str, Any]]:
    """Entries of the database by id, from the Darkroom that runs here. None if none runs."""
    try:
        with Client(Installation(config.server.data_dir)) as client:
            found = client.get(ENTRIES.path)["entries"]
    except DarkroomError:
        return {}
    return {each["endpoint_id"]: each["entry"] for each in found}


def downloads(store: Store, endpoints: Sequence[Endpoint]) -> list[Download]:
    """Downloads for ``endpoints``: one per repository, even if several endpoints share it.

    Queries the hub for all repositories concurrently.
    """
    sharers: dict[Weights, list[Endpoint]] = {}
    for endpoint in endpoints:
        for weights in repositories_of(endpoint):
            sharers.setdefault(weights, []).append(endpoint)

    def planned(weights: Weights) -> Download:
        sharing = tuple(sharers[weights])
        try:
            return Download(weights, sharing, store.plan(weights))
        except DarkroomError as error:
            return Download(weights, sharing, None, error.message)

    with ThreadPoolExecutor(MAX_CONCURRENT_HUB_CALLS, thread_name_prefix="plan") as threads:
        return list(threads.map(planned, sharers))
