"""Steps of a load that need no device memory of their own: building a pipeline, and its first call
once it is on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from deployments.engine.engine import Engine
from deployments.engine.loading.loads import LoadPlan, OnFound
from deployments.engine.loop.generation import Generation
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.memory.placement import Placement, placed_by
from deployments.engine.merging.quantized_files import FileCache
from deployments.engine.reading.unread import WeightsNotRead, reading_later
from serve_app.domain.progress import OnDownload

log = logging.getLogger(__name__)

WARM_UP_PRIORITY = 1  # above that of requests: it is short, and requests wait for it


def build(
    name: str,
    plan: LoadPlan,
    quantized: FileCache | None,
    on_download: OnDownload,
    on_found: OnFound,
) -> Placement:
    """Build the pipeline, with weights that are not read yet unless its family needs them."""
    try:
        with reading_later():
            pipeline = plan.load(on_download, on_found)
            return placed_by(plan.recipe, pipeline, quantized)
    except WeightsNotRead as error:
        log.info("%s is read to host memory first: %s", name, error)
    return placed_by(plan.recipe, plan.load(on_download, on_found))


def warm_up(
    engine: Engine,
    name: str,
    arguments: Callable[[], Mapping[str, Any]],
    then: Callable[[], None],
) -> None:
    """Start one call among those of others, and call ``then`` at its end. A failure is logged only.

    The next load does not wait for it: the call itself may wait for a place for minutes.
    """
    try:
        options = GenerationOptions(priority=WARM_UP_PRIORITY)
        call = engine.submit(pipeline=name, options=options, **arguments())
    except Exception:
        log.warning("The warm-up call of %s failed.", name, exc_info=True)
        then()
    else:
        call.add_done_callback(partial(_warmed_up, name, then))


def _warmed_up(name: str, then: Callable[[], None], call: Generation) -> None:
    try:
        call.result()
    except Exception:
        log.warning("The warm-up call of %s failed.", name, exc_info=True)
    then()
