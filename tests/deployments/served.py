"""Endpoints of the built-in catalogue, served without replica and queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.engine.engine import Engine
from deployments.families.base import (
    Family,
    GenerationCall,
    GenerationResult,
    Product,
    load_families,
)
from deployments.families.registry import FAMILIES
from serve_app.catalog.catalog import CatalogEntry, load
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights

CATALOG = load(None, demo=False, demo_dir=Path("/nowhere"), families=FAMILIES)
SEED = 99  # for requests without a seed


class Served:
    """One endpoint over a pipeline that runs in an engine."""

    def __init__(self, entry: CatalogEntry, pipeline: Any, engine: Engine) -> None:
        self.entry = entry
        self.pipeline = pipeline
        self.family: Family = load_families(FAMILIES)[entry.endpoint.family]
        self._engine = engine

    def call(self, body: Mapping[str, Any], **images: Any) -> GenerationCall:
        """The pipeline call for a client's body. ``images`` replace their URLs."""
        checked, _ = self.entry.schema.validate(dict(body))
        return self.family.prepare(self.entry.endpoint, checked | images, self.pipeline, SEED)

    def run(self, call: GenerationCall) -> Any:
        name = self.entry.endpoint.id
        self._engine.add(name, self.pipeline)
        return self._engine.submit(pipeline=name, view=call.view, **call.arguments).result(60)

    def deliver(self, call: GenerationCall, result: Any, count: int) -> Product:
        tickets = tuple(
            UploadTicket(f"key-{n}", f"http://storage/{n}", "image/png", 10**7)
            for n in range(count)
        )
        return self.family.deliver(
            self.entry.endpoint, call, GenerationResult(result, 1.5, 2), tickets
        )


def from_folder(endpoint_id: str, folder: Path, **options: Any) -> Endpoint:
    """The endpoint with our own weights."""
    endpoint = CATALOG.get(endpoint_id).endpoint
    changed = {**endpoint.options, **options}
    return replace(endpoint, weights=Weights(str(folder)), options=changed)
