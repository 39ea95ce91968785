"""Weight repositories that an installation needs, and the part that is not downloaded yet."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.connection.text import counted
from serve_app.domain.errors import DarkroomError
from serve_app.domain.preflight import Preflight, gigabytes
from serve_app.preflight import this_machine
from serve_app.resources.entries import ENTRIES
from serve_app.settings import Config, read_config
from weights.availability import Availability, look_for, needed_by
from weights.store import Store

if TYPE_CHECKING:
    from serve_app.catalog.entries import CatalogEntry

REVISION_DIGITS = 12  # number of digits shown of a commit
SHARED = ("licence", "fits", "access")
"""Subjects of a pre-flight answer that are shown of each repository."""


@dataclass(frozen=True, slots=True)
class RepositoryDownload:
    """One repository, with the pre-flight answers of the endpoints that use it."""

    available: Availability
    answers: tuple[Preflight, ...]

    @property
    def missing_bytes(self) -> int | None:
        """Bytes to download; None: not known."""
        return self.available.plan.missing_bytes if self.available.plan else None

    @property
    def name(self) -> str:
        weights = self.available.weights
        variant = f" ({weights.variant})" if weights.variant else ""
        return f"{weights.source}@{(weights.revision or '')[:REVISION_DIGITS]}{variant}"

    def lines(self) -> Iterator[str]:
        """Description for a terminal."""
        yield f"{self.name}: {self.size()}"
        yield f"    for      {', '.join(answer.endpoint_id for answer in self.answers)}"
        for subject in SHARED:
            sentences = (answer.sentences().get(subject) for answer in self.answers)
            for sentence in dict.fromkeys(filter(None, sentences)):
                yield f"    {subject:<8} {sentence}"

    def size(self) -> str:
        plan = self.available.plan
        if plan is None:
            return self.available.problem
        total = f"{gigabytes(plan.total_bytes)} in {counted(len(plan.files), 'file')}"
        if not plan.missing:
            return f"{total}, all downloaded"
        return f"{gigabytes(plan.missing_bytes)} to download, of {total}"

    def as_json(self) -> dict[str, Any]:
        weights, plan = self.available.weights, self.available.plan
        return {
            "repository": weights.source,
            "revision": weights.revision,
            "variant": weights.variant,
            "endpoints": {answer.endpoint_id: answer.as_json() for answer in self.answers},
            "files": len(plan.files) if plan else None,
            "total_bytes": plan.total_bytes if plan else None,
            "missing_bytes": plan.missing_bytes if plan else None,
            "error": self.available.problem or None,
        }


def total_text(repositories: Iterable[RepositoryDownload]) -> str:
    """Bytes to download in all, with the number of repositories whose size is not known."""
    missing = [download.missing_bytes for download in repositories]
    known, unknown = sum(filter(None, missing)), missing.count(None)
    if not unknown:
        return gigabytes(known)
    of_unknown = f"{unknown} {'repository' if unknown == 1 else 'repositories'} of unknown size"
    return f"{gigabytes(known)} and {of_unknown}" if known else of_unknown


def pull_command(data_dir: Path, *endpoints: str) -> str:
    """Command that downloads weights for the installation with this data directory."""
    words = ["darkroom", "models", "pull", *endpoints]
    if data_dir != read_config({}).server.data_dir:
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def chosen_entries(config: Config, ids: Sequence[str]) -> list[CatalogEntry]:
    """Entries of these endpoints; without ``ids``, all that real weights would serve here.

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
    listed = catalog.combine_entries(
        own, builder, [catalog.StoredEntry(name, entry) for name, entry in stored.items()]
    )
    if ids:
        return [listed.get_listed(endpoint_id) for endpoint_id in dict.fromkeys(ids)]
    return [files for files in listed if not files.missing]


def _stored_entries(config: Config) -> dict[str, dict[str, Any]]:
    """Entries of the database by id, from the Darkroom that runs here. None if none runs."""
    try:
        with Client(Installation(config.server.data_dir)) as client:
            entries = client.get(ENTRIES.path)["entries"]
    except DarkroomError:
        return {}
    return {entry["endpoint_id"]: entry["entry"] for entry in entries}


def downloads(
    config: Config, store: Store, entries: Sequence[CatalogEntry], within_s: float | None = None
) -> list[RepositoryDownload]:
    """Downloads for ``entries``: one for each repository, even if several endpoints share it.

    Asks the hub about all repositories; see ``look_for``.
    """
    from serve_app.catalog.preflight import preflight  # noqa: PLC0415 as in ``chosen_entries``

    needed = needed_by(entry.endpoint for entry in entries)
    by_weights, whole = look_for(store, needed, within_s)
    machine, pull = this_machine(config), partial(pull_command, config.server.data_dir)
    answers = {
        entry.endpoint.id: preflight(entry, machine, whole[entry.endpoint.id], pull=pull)
        for entry in entries
    }
    return [
        RepositoryDownload(
            available, tuple(answers[id_] for id_, own in needed.items() if weights in own)
        )
        for weights, available in by_weights.items()
    ]
