"""Pre-flight answers from entries of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.util import find_spec

from serve_app.catalog.entries import CatalogEntry, real_endpoint
from serve_app.domain.preflight import (
    NOTHING,
    Download,
    HubState,
    MachineFacts,
    Needs,
    Preflight,
    Server,
    summary,
)

PullCommand = Callable[[str], str]
"""Command that downloads the weights of an endpoint."""


def preflight(
    entry: CatalogEntry,
    machine: MachineFacts,
    download: Download | None,
    *,
    measured_s: float | None = None,
    pull: PullCommand = lambda endpoint: f"darkroom models pull {endpoint}",
) -> Preflight:
    """Answer for an entry's own model. ``download``: of its weights; None: nobody has looked, and
    the entry is believed. ``measured_s``: mean time of its requests here; None: none has ended, or
    the demo model's have."""
    endpoint = real_endpoint(entry)
    told = stated_download(entry) if download is None else _with_stated_size(entry, download)
    return Preflight(
        endpoint_id=endpoint.id,
        name=endpoint.display_name or endpoint.id,
        kind=endpoint.kind,
        licence=endpoint.licence,
        server=_server(entry),
        reason=entry.missing,
        machine=machine,
        needs=_needs(entry, None if entry.demo else measured_s),
        download=told,
        pull="" if told is NOTHING else pull(endpoint.id),
    )


def summary_of(entries: Iterable[CatalogEntry], machine: MachineFacts) -> str:
    """Sentence about all entries: how many of their own models fit. Nothing is looked at."""
    return summary([preflight(entry, machine, None) for entry in entries])


def stated_download(entry: CatalogEntry) -> Download:
    """Size of the download as the entry states it, or estimated from its memory, without a look at
    the hub."""
    source = entry.source
    if source.weights is None or source.weights.hub is None:
        return NOTHING
    if source.cpu is not None and source.cpu.download_gb is not None:
        return Download(int(source.cpu.download_gb * 1e9), None, HubState.NOT_ASKED, "entry")
    if source.memory is not None:
        size = sum(source.memory.weights.values()) + source.memory.adapters
        return Download(int(size * 1e9), None, HubState.NOT_ASKED, "estimate")
    return Download(None, None, HubState.NOT_ASKED, "unknown")


def _with_stated_size(entry: CatalogEntry, download: Download) -> Download:
    """``download`` with the size that the entry states, where the look has found none."""
    if download.total_bytes is not None:
        return download
    told = stated_download(entry)
    if told is NOTHING:
        return NOTHING
    return replace(download, total_bytes=told.total_bytes, basis=told.basis)


def _server(entry: CatalogEntry) -> Server:
    if entry.missing:
        return Server.NOTHING
    if entry.endpoint.executor.is_hosted:
        return Server.HOSTED
    return Server.DEMO if entry.demo else Server.REAL


def _needs(entry: CatalogEntry, measured_s: float | None) -> Needs:
    source = entry.source
    cpu, memory = source.cpu, source.memory
    stated_s = None if cpu is None else cpu.seconds
    return Needs(
        recipes=real_endpoint(entry).recipes,
        runs_on_cpu=cpu is not None,
        weights_bytes=None if memory is None else int(sum(memory.weights.values()) * 1e9),
        seconds=stated_s if measured_s is None else measured_s,
        seconds_from="here" if measured_s is not None else "entry" if stated_s else "unknown",
        packages=tuple(name for name in source.packages if find_spec(name) is None),
    )
