"""Placement of a pipeline's components: on the device, in host memory, or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from diffusers.models.modeling_utils import ModelMixin

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.accelerator.pinned import pin
from deployments.engine.accelerator.transfer import Transfer
from deployments.engine.interception.components import DENOISERS
from deployments.engine.merging.compile import (
    DIVIDES_ROWS,
    compile_decoder,
    compile_regions,
    record_graphs,
    with_repeated_blocks,
)
from deployments.engine.merging.quantized import QUANTIZATIONS, quantize
from deployments.engine.merging.quantized_files import FileCache
from deployments.engine.reading.reader import Home, OnBytes, WeightReader
from deployments.engine.reading.unread import UnreadWeight
from serve_app.domain.endpoint import EIGHT_BITS_MIN_SHARE, Recipe
from serve_app.domain.errors import Misconfigured, WeightsUnavailable


class DeviceSlot:
    """Slot on the device. A called component is copied in and stays until another one is called.

    There is no fixed order, so generations can interleave; at worst, two of them swap their
    components at each step. All calls are on the engine's thread, and they are not nested.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.device = accelerator.device
        self._accelerator = accelerator
        self._guest: torch.nn.Module | None = None
        self._left_behind: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def serve(self, module: torch.nn.Module) -> None:
        """Copy ``module`` to the device each time that it is called, from now on."""
        add_hook_to_module(module, _LoadIntoSlot(self))

    def is_taken_by_another(self, module: torch.nn.Module) -> bool:
        return self._guest is not None and self._guest is not module

    def holds(self, module: torch.nn.Module) -> bool:
        return self._guest is module

    def admit(self, module: torch.nn.Module) -> None:
        if self.holds(module):
            return
        self.vacate()
        self._guest = module
        try:
            for tensor in _tensors(module):
                self._left_behind[id(tensor)] = (tensor, tensor.data)
                tensor.data = self.copied_in(tensor.data)
        except BaseException:
            self.vacate()
            raise

    def copied_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of ``tensor`` on the device."""
        return tensor.to(self.device, non_blocking=True)

    def vacate(self) -> None:
        """Point the weights of the current component to their copies in host memory again.

        The device copies were not written to, except when their dtype changed: pipelines upcast
        autoencoders. Then they are copied back.
        """
        if self._guest is None:
            return
        for tensor in _tensors(self._guest):
            _, before = self._left_behind.get(id(tensor), (tensor, tensor.data))
            same = before.dtype == tensor.dtype and before.device.type == "cpu"
            tensor.data = before if same else tensor.data.to("cpu")
        self._guest = None
        self._left_behind.clear()


class _LoadIntoSlot(ModelHook):
    """accelerate hook. diffusers also calls it for an autoencoder's ``encode`` and ``decode``."""

    def __init__(self, slot: DeviceSlot) -> None:
        super().__init__()
        self.slot = slot
        self.execution_device = torch.device(slot.device)  # read by diffusers

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.slot.admit(module)
        device = self.execution_device
        return send_to_device(args, device), send_to_device(kwargs, device)


def vacate_slots(pipelines: Iterable[Any]) -> None:
    """Free the device memory of components that are there only until another one is called.

    For the engine's thread, between two forwards. Such a component is copied again when called.
    """
    for pipeline in pipelines:
        for component in vars(pipeline).values():
            hook = getattr(component, "_hf_hook", None)
            if isinstance(hook, _LoadIntoSlot):
                hook.slot.vacate()


def moves_weights(module: Any) -> bool:
    """Return whether a call of ``module`` copies it into a slot where another one is."""
    hook = vars(module).get("_hf_hook")
    return isinstance(hook, _LoadIntoSlot) and hook.slot.is_taken_by_another(module)


def brings_weights(module: Any) -> bool:
    """Return whether a call of ``module`` copies it to the device first."""
    hook = vars(module).get("_hf_hook")
    return isinstance(hook, _LoadIntoSlot) and not hook.slot.holds(module)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


STORED = torch.float8_e4m3fn
"""Storage of weights in 8 bits; layers compute in the dtype that the weights were loaded in. It
uses diffusers' layerwise casting: a layer's weights are cast when the layer runs, and cast back
afterwards. This needs no package besides torch and halves the memory; the arithmetic is not
faster."""
_TIED = "lm_head"  # often the same tensor as the embeddings


def store_in_float8(pipeline: Any) -> None:
    """Cast the weights of the large components. Autoencoders are left out: errors are visible.

    Call it once, after loading and before the pipeline is used.
    """
    modules = {
        name: value for name, value in vars(pipeline).items() if isinstance(value, torch.nn.Module)
    }
    sizes = {name: _parameters(module) for name, module in modules.items()}
    for name, module in modules.items():
        if sizes[name] >= EIGHT_BITS_MIN_SHARE * sum(sizes.values()) and not hasattr(
            module, "decode"
        ):
            _store(module)


def _store(module: Any) -> None:
    if isinstance(module, ModelMixin):
        module.enable_layerwise_casting(storage_dtype=STORED, compute_dtype=module.dtype)
        return
    # A text encoder from transformers. Its `dtype` is its first parameter's, an embedding,
    # and pipelines cast to it. The modules that it wants in 32 bits are also those whose weights
    # are read outside of the layer, such as `wo` in T5, whose input would be cast to 8 bits.
    delicate = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
    apply_layerwise_casting(
        module,
        storage_dtype=STORED,
        compute_dtype=module.dtype,
        skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, *delicate, _TIED),
        skip_modules_classes=(torch.nn.Embedding,),
    )


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


BLOCKS_AT_ONCE = 2  # the running block, and the next one being copied


@dataclass(frozen=True, slots=True)
class Placement:
    """Placement of a loaded pipeline by a recipe. Nothing is moved before ``apply``."""

    pipeline: Any
    resident: tuple[torch.nn.Module, ...]  # on the device
    waiting: tuple[torch.nn.Module, ...]  # in host memory; one at a time is on the device
    streamed: tuple[torch.nn.Module, ...]  # in host memory; copied block by block to run
    compiled: bool = False  # compile the denoisers' repeated blocks at their first call
    compiles_decoder: bool = False  # and the image autoencoder's decoder
    records: bool = False  # record the denoisers' forwards as graphs

    @property
    def compiles(self) -> bool:
        """Return whether something is compiled."""
        return self.compiled or self.compiles_decoder

    @property
    def compiles_later(self) -> bool:
        """Return whether it can be compiled while it is used.

        Not what is recorded, as records keep what ran; nor components that come and go, as the
        compiler's thread would need them too; nor denoisers of several devices, which have to run
        the same code.
        """
        divided = any(
            vars(block).get(DIVIDES_ROWS) for block in with_repeated_blocks(self.pipeline)
        )
        return self.compiles and not (self.records or self.waiting or self.streamed or divided)

    @property
    def device_bytes(self) -> int:
        """Maximum bytes of weights on the device."""
        passing = [bytes_of([module]) for module in self.waiting]
        streams = (_stream_bytes(module) for module in self.streamed)
        return bytes_of(self.resident) + max(passing, default=0) + sum(streams)

    @property
    def host_bytes(self) -> int:
        """Bytes of weights in host memory."""
        return bytes_of([*self.waiting, *self.streamed])

    def apply(
        self,
        accelerator: Accelerator,
        reader: WeightReader | None = None,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Move the resident components to the device, and hook the others to be copied when called.

        Weights that were not read yet are read to where they belong, by ``reader`` if there is one;
        ``on_bytes`` gets the bytes that were read, and all. Hooks stay on the components for good,
        also in views of the pipeline. When the device runs out of memory, it can be called again
        after ``undo``. Raises ``WeightsUnavailable`` before anything is moved, when the host has
        too little memory.
        """
        self._check_host(accelerator)
        self._read(accelerator, reader or WeightReader(accelerator), on_bytes)
        with Transfer(accelerator, "weights") as transfer:
            transfer.move(self.resident)
        self._move(accelerator.device)
        if self.compiled:
            compile_regions(self.pipeline)
        if self.compiles_decoder:
            compile_decoder(self.pipeline)
        if self.records:
            record_graphs(self.pipeline)
        if accelerator.capabilities.discrete:  # several times faster to copy
            pin([*self.waiting, *self.streamed], accelerator)
        berth = DeviceSlot(accelerator)
        for module in self.waiting:
            berth.serve(module)
        with accelerator.stream("weights").active():  # it waits for the stream that it is in
            self._stream_blocks(accelerator)

    def _read(
        self, accelerator: Accelerator, reader: WeightReader, on_bytes: OnBytes | None
    ) -> None:
        discrete = accelerator.capabilities.discrete
        resident = Home.DEVICE if discrete else Home.HOST
        other = Home.LOCKED if discrete else Home.HOST
        homes = [(module, resident) for module in self.resident]
        homes += [(module, other) for module in (*self.waiting, *self.streamed)]
        reader.read(homes, on_bytes)

    def _stream_blocks(self, accelerator: Accelerator) -> None:
        for module in self.streamed:
            # A separate stream copies the next block while one runs. The copies in host memory
            # are kept, so blocks are not copied back.
            apply_group_offloading(
                module,
                onload_device=torch.device(accelerator.device),
                offload_device=torch.device("cpu"),
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=accelerator.capabilities.discrete,
            )

    def undo(self) -> None:
        """Move components back to host memory after an out-of-memory error."""
        self._move("cpu")

    def _check_host(self, accelerator: Accelerator) -> None:
        lockable = accelerator.lockable_bytes()
        if lockable is None:
            return
        lockable += _locked_bytes([*self.waiting, *self.streamed], accelerator)
        if self.host_bytes > lockable:
            raise WeightsUnavailable(
                f"The recipe keeps {self.host_bytes / 1e9:.2f} GB of weights in page-locked host "
                f"memory, and {max(0, lockable) / 1e9:.2f} GB of the host's may still be "
                "page-locked. Use a host with more memory, or a GPU and a recipe that keep more "
                "weights on the GPU."
            )

    def _move(self, device: str) -> None:
        if self.waiting or self.streamed:
            for module in self.resident:
                module.to(device)
        elif hasattr(self.pipeline, "to"):
            self.pipeline.to(device)


def bytes_of(modules: Iterable[torch.nn.Module]) -> int:
    """Bytes of all weights; shared weights count once."""
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values())


def _locked_bytes(modules: Iterable[torch.nn.Module], accelerator: Accelerator) -> int:
    """Bytes of weights that are in page-locked memory already: they were read there beforehand."""
    there = {id(tensor): tensor for module in modules for tensor in _tensors(module)}
    return sum(
        tensor.nbytes
        for tensor in there.values()
        if not isinstance(tensor, UnreadWeight)
        and accelerator.is_page_locked(tensor.untyped_storage().data_ptr())
    )


def placed_by(
    recipe: Recipe | None, pipeline: Any, quantized: FileCache | None = None
) -> Placement:
    """Return the placement for ``recipe``, after storing the weights in its precision.

    Without a recipe, everything is on the device, as it was loaded. ``quantized``: keeps weights
    in 8 bits for later loads. Raises ``Misconfigured`` when
    the pipeline lacks a hot component, or has no layers to quantize.
    """
    if recipe is not None and recipe.precision == "float8":
        store_in_float8(pipeline)
    if recipe is not None and recipe.precision in QUANTIZATIONS:
        quantize(pipeline, recipe.precision, quantized)
    components = {
        name: value for name, value in vars(pipeline).items() if isinstance(value, torch.nn.Module)
    }
    if recipe is None or recipe.offload == "none":
        return Placement(
            pipeline,
            tuple(components.values()),
            (),
            (),
            compiled=bool(recipe and recipe.compile),
            compiles_decoder=bool(recipe and recipe.compile_decoder),
            records=bool(recipe and recipe.graphs),
        )
    unknown = sorted(set(recipe.hot) - set(components))
    if unknown:
        raise Misconfigured(
            f"The recipe for {recipe.memory_gb:g} GB keeps {', '.join(unknown)} on the device, "
            f"but {type(pipeline).__name__} has only: {', '.join(sorted(components))}."
        )
    cold = {name: component for name, component in components.items() if name not in recipe.hot}
    streamed = set(cold).intersection(DENOISERS) if recipe.offload == "blocks" else set[str]()
    return Placement(
        pipeline,
        resident=tuple(components[name] for name in recipe.hot),
        waiting=tuple(component for name, component in cold.items() if name not in streamed),
        streamed=tuple(cold[name] for name in sorted(streamed)),
        compiled=recipe.compile,
        compiles_decoder=recipe.compile_decoder,
        records=recipe.graphs,
    )


def _stream_bytes(module: torch.nn.Module) -> int:
    """Bytes on the device of a streamed module: the blocks being copied or run, and the rest."""
    blocks = [*_blocks(module)]
    largest = max((bytes_of([block]) for block in blocks), default=0)
    rest = bytes_of([module]) - bytes_of(blocks)
    return rest + min(BLOCKS_AT_ONCE * largest, bytes_of(blocks))


def _blocks(module: torch.nn.Module) -> Iterable[torch.nn.Module]:
    """Blocks as diffusers finds them: members of lists and sequences right below the top level."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential):
            yield from child
