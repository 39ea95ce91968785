"""Where a pipeline's components are: on the device, in host memory, or passing through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from deployments.engine.berth import Berth
from deployments.engine.denoisers import DENOISERS
from deployments.engine.float8 import store_in_float8
from deployments.engine.regions import compile_regions
from deployments.engine.weight_bytes import bytes_of
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Misconfigured

BLOCKS_AT_ONCE = 2  # the one that runs, and the next that is on its way


@dataclass(frozen=True, slots=True)
class Placement:
    """Of a loaded pipeline, by a recipe. Nothing is moved before ``apply``."""

    pipeline: Any
    resident: tuple[torch.nn.Module, ...]  # on the device
    waiting: tuple[torch.nn.Module, ...]  # in host memory; one at a time is on the device
    streamed: tuple[torch.nn.Module, ...]  # in host memory; passes through, block by block
    compiled: bool = False  # what its denoisers repeat, when they are called first

    @property
    def device_bytes(self) -> int:
        """Weights on the device at most."""
        passing = [bytes_of([each]) for each in self.waiting]
        streams = (_stream_bytes(each) for each in self.streamed)
        return bytes_of(self.resident) + max(passing, default=0) + sum(streams)

    def apply(self, device: str) -> None:
        """Move what belongs on ``device``, and have the rest come in when it is called.

        It is for good: hooks stay on the components, also in the views of the pipeline. When the
        device's memory runs out, it can be called again after ``undo``.
        """
        self._move(device)
        if self.compiled:
            compile_regions(self.pipeline)
        berth = Berth(device)
        for module in self.waiting:
            berth.serve(module)
        for module in self.streamed:
            # A stream of its own copies the next block while one runs. Copies of its own in host
            # memory spare it the way back.
            apply_group_offloading(
                module,
                onload_device=torch.device(device),
                offload_device=torch.device("cpu"),
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=device.startswith("cuda"),
            )

    def undo(self) -> None:
        """Bring back to host memory what had come before there was too little."""
        self._move("cpu")

    def _move(self, device: str) -> None:
        if self.waiting or self.streamed:
            for module in self.resident:
                module.to(device)
        elif hasattr(self.pipeline, "to"):
            self.pipeline.to(device)


def placed_by(recipe: Recipe | None, pipeline: Any) -> Placement:
    """The placement that ``recipe`` asks for; the weights are stored in its precision. Without a
    recipe everything is on the device, as it was loaded.

    ``Misconfigured`` for a hot component that the pipeline does not have.
    """
    if recipe is not None and recipe.precision == "float8":
        store_in_float8(pipeline)
    components = {
        name: each for name, each in vars(pipeline).items() if isinstance(each, torch.nn.Module)
    }
    if recipe is None or recipe.offload == "none":
        return Placement(
            pipeline, tuple(components.values()), (), (), compiled=bool(recipe and recipe.compile)
        )
    unknown = sorted(set(recipe.hot) - set(components))
    if unknown:
        raise Misconfigured(
            f"The recipe for {recipe.memory_gb:g} GB keeps {', '.join(unknown)} on the device, "
            f"which {type(pipeline).__name__} does not have: {', '.join(sorted(components))}."
        )
    cold = {name: each for name, each in components.items() if name not in recipe.hot}
    streamed = set(cold).intersection(DENOISERS) if recipe.offload == "blocks" else set[str]()
    return Placement(
        pipeline,
        resident=tuple(components[name] for name in recipe.hot),
        waiting=tuple(each for name, each in cold.items() if name not in streamed),
        streamed=tuple(cold[name] for name in sorted(streamed)),
        compiled=recipe.compile,
    )


def _stream_bytes(module: torch.nn.Module) -> int:
    """What is on the device of a module that is streamed: the blocks that pass, and the rest."""
    blocks = [*_blocks(module)]
    largest = max((bytes_of([each]) for each in blocks), default=0)
    rest = bytes_of([module]) - bytes_of(blocks)
    return rest + min(BLOCKS_AT_ONCE * largest, bytes_of(blocks))


def _blocks(module: torch.nn.Module) -> Iterable[torch.nn.Module]:
    """As diffusers finds them: the members of lists and sequences right below the top."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential):
            yield from child
