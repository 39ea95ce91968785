"""What carries HTTP from the port to the ingress is chosen when Ray starts."""

from __future__ import annotations

import logging

from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

log = logging.getLogger(__name__)


def tell_of_the_slow_one() -> None:
    """A line for whoever started Ray without the fast one, as a bare `serve run` does."""
    if not RAY_SERVE_ENABLE_HA_PROXY:
        log.info(
            "Ray's Python proxy carries the HTTP. HAProxy carries about five times as much: set "
            "RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1 before Ray starts "
            "(`darkroom serve` does)."
        )
