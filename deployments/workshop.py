"""What all attempts of a replica share."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.family import Family
from deployments.fetching import Fetcher
from deployments.upload import Uploader
from deployments.weights import as_held, recipe_on, weights_name
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.ports import Clock

if TYPE_CHECKING:  # they import torch
    from deployments.engine.engine import Engine
    from deployments.engine.residency import Loan, Residency


@dataclass(frozen=True, slots=True)
class Workshop:
    """Made once for each replica."""

    engine: Engine
    residency: Residency
    uploader: Uploader
    fetcher: Fetcher
    encoders: Executor  # for ``Family.deliver``, and for reading pictures
    clock: Clock
    served: dict[str, str] = field(default_factory=dict)  # endpoint id → name of its weights

    def borrow(self, family: Family, endpoint: Endpoint) -> Loan:
        """The endpoint's weights, held by the recipe for this device. ``WeightsUnavailable`` where
        none fits: nothing is loaded then."""
        device = self.engine.device
        recipe = recipe_on(endpoint, self.engine.device_bytes())
        held = as_held(endpoint, recipe)
        name = self.served[endpoint.id] = weights_name(endpoint, recipe)
        return self.residency.borrow(name, lambda: family.load(held, device), recipe)

    @property
    def hot(self) -> tuple[str, ...]:
        """Ids of the endpoints whose weights are loaded."""
        return tuple(id_ for id_, name in self.served.items() if self.residency.find(name))
