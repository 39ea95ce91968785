"""Linear layers with 8-bit weights, and products in 8 bits.

A denoiser's time goes into the linear layers of its repeated blocks. Three precisions store their
weights as 8-bit numbers with one scale for each output:

- ``int8-weights``: the weights are converted when the layer runs. Half the memory of 16 bits, and
  the least difference; not faster.
- ``int8-dynamic``, ``float8-dynamic``: the inputs are rounded to 8 bits too, with one scale for
  each token, and devices multiply 8 bits about twice as fast.

Scales by token keep rows apart, so calls merge. But what differs in its last bit before it is
rounded may differ by a whole step afterwards, so the results of merged calls are compared by the
noise floor (``rounds_inputs``), also in float32.

Weights are plain tensors and layers are ``Linear``: what places, copies and pins them, LoRAs and
torch.compile need to know nothing. torchao's tensors are subclasses, which do not pass through the
slabs of ``accelerator/pinned.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from torch import Tensor
from torch.nn import functional

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.merging.compile import with_repeated_blocks
from deployments.engine.merging.quantized_files import (
    FileCache,
    Values,
    file_name,
    keep,
    read_later,
)
from deployments.engine.reading.reader import Home, WeightReader
from serve_app.domain.endpoint import Recipe
from serve_app.domain.errors import Misconfigured

_ALIGNMENT = 16  # a multiple of which both sizes of a matrix in 8 bits must be
_MIN_INT8_ROWS = 17  # of ``torch._int_mm`` on CUDA
_LEAST_SCALE = 1e-12  # of a token that is all zeros


def _with_int8_weights(layer: QuantizedLinear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight.to(x.dtype)) * layer.scale.to(x.dtype)


def _in_int8(layer: QuantizedLinear, x: Tensor) -> Tensor:
    rounded, scale = rounded_rows(_rows_of(x), torch.int8)
    rows = len(rounded)
    if rows < _MIN_INT8_ROWS:
        rounded = functional.pad(rounded, (0, 0, 0, _MIN_INT8_ROWS - rows))
    product = torch._int_mm(rounded, layer.weight.t())[:rows]  # noqa: SLF001 - no public name
    output = x.new_empty(rows, layer.out_features)
    torch.mul(product * scale, layer.scale, out=output)
    return output.view(*x.shape[:-1], -1)


def _in_float8(layer: QuantizedLinear, x: Tensor) -> Tensor:
    rounded, scale = rounded_rows(_rows_of(x), torch.float8_e4m3fn)
    product = torch._scaled_mm(  # noqa: SLF001 - no public name
        rounded,
        layer.weight.view(torch.float8_e4m3fn).t(),
        scale_a=scale,
        scale_b=layer.scale[None],
        out_dtype=torch.bfloat16,  # with scales by row, GPUs give no other
        use_fast_accum=True,
    )
    return product.to(x.dtype).view(*x.shape[:-1], -1)


def _rows_of(x: Tensor) -> Tensor:
    """Rows of a layer's input. Rounding has no gradient, and ``out=`` refuses to record one."""
    return x.detach().reshape(-1, x.shape[-1])


def rounded_rows(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return ``rows`` [n, k] rounded to ``dtype``, and their scales [n, 1] in float32.

    Without a compiler, each operation reads and writes memory, so there are few: float8 reads the
    rows twice. The maximum of 16 bits is exact, and the division converts while it reads and
    writes. Nothing is clamped: a quotient exceeds the type's maximum by one last bit of float32 at
    most, which rounds down to it.
    """
    info = torch.iinfo(dtype) if dtype is torch.int8 else torch.finfo(dtype)
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True)
    scale = (largest.float() / info.max).clamp(min=_LEAST_SCALE)
    if dtype is torch.int8:
        return (rows / scale).round_().to(dtype), scale
    rounded = rows.new_empty(rows.shape, dtype=dtype)
    torch.div(rows, scale, out=rounded)
    return rounded, scale


def _values_of(layer: torch.nn.Linear, quantization: Quantization) -> Values:
    rounded, scale = rounded_rows(layer.weight.detach(), quantization.stored)
    return rounded.view(quantization.buffer_dtype), scale.view(-1)


@dataclass(frozen=True, slots=True)
class Quantization:
    """How layers store weights and compute."""

    stored: torch.dtype
    product: Callable[[QuantizedLinear, Tensor], Tensor]  # without the bias
    multiplies: torch.dtype | None = None  # 8-bit type in which the device must multiply

    @property
    def buffer_dtype(self) -> torch.dtype:
        """Type of the buffer, which casting a module does not change."""
        return self.stored if self.stored is torch.int8 else torch.uint8


QUANTIZATIONS: Mapping[str, Quantization] = {
    "int8-weights": Quantization(torch.int8, _with_int8_weights),
    "int8-dynamic": Quantization(torch.int8, _in_int8, torch.int8),
    "float8-dynamic": Quantization(torch.float8_e4m3fn, _in_float8, torch.float8_e4m3fn),
}
"""By the ``precision`` of a recipe."""


class QuantizedLinear(torch.nn.Linear):
    """Linear layer with weights [out, in] in 8 bits and a scale [out] for each output.

    float8 weights are kept as ``uint8``, so that casting the module to another type changes none.
    """

    scale: Tensor
    bias: torch.nn.Parameter | None  # pyrefly: ignore[bad-override]

    def __init__(
        self, layer: torch.nn.Linear, quantization: Quantization, values: Values | None = None
    ) -> None:
        """``values``: those of ``layer``, if they are known; they may be unread."""
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.quantization = quantization
        weight, scale = _values_of(layer, quantization) if values is None else values
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_parameter("bias", layer.bias)

    def forward(self, input: Tensor) -> Tensor:
        output = self.quantization.product(self, input)
        return output if self.bias is None else output + self.bias

    @property
    def rounds_inputs(self) -> bool:
        return self.quantization.multiplies is not None


def require_products(recipe: Recipe | None, accelerator: Accelerator) -> None:
    """Raise ``Misconfigured`` if the device cannot compute in the recipe's precision."""
    quantization = None if recipe is None else QUANTIZATIONS.get(recipe.precision)
    if recipe is None or quantization is None or quantization.multiplies is None:
        return
    if not accelerator.multiplies(quantization.multiplies):
        raise Misconfigured(
            f"The recipe's precision is {recipe.precision}, but this device ({accelerator.device}) "
            f"cannot multiply {quantization.multiplies} matrices. int8 needs a GPU of NVIDIA's "
            "Ampere generation or newer, float8 Ada, Hopper or newer. Use another GPU, or "
            "int8-weights or float8 in the recipe, which only store weights in 8 bits."
        )


def quantize(pipeline: Any, precision: str, files: FileCache | None = None) -> None:
    """Quantize the linear layers in the repeated blocks of the denoisers, in place.

    Norms and their modulations keep their precision. Call it once, after loading. What weights that
    were not read yet become is kept in ``files``; from there, it is not read yet either. Raises
    ``Misconfigured`` if diffusers names no repeated blocks for any denoiser.
    """
    denoisers = with_repeated_blocks(pipeline)
    if not denoisers:
        raise Misconfigured(
            f"{type(pipeline).__name__} has no denoiser for which diffusers names repeated blocks, "
            f"so {precision} has nothing to quantize. Use another `precision` in its recipe."
        )
    for denoiser in denoisers:
        _quantize(denoiser, QUANTIZATIONS[precision], files)


def _quantize(denoiser: Any, quantization: Quantization, files: FileCache | None) -> None:
    layers = list(_large_layers(denoiser))
    paths = {id(module): path for path, module in denoiser.named_modules()}
    weights: dict[str, Tensor] = {paths[id(layer)]: layer.weight for _, _, layer in layers}
    name = None if files is None else file_name(weights, quantization.buffer_dtype)
    known = None
    if files is not None and name is not None:
        known = read_later(files, name, weights, quantization.buffer_dtype)
        if known is None:
            WeightReader(Cpu()).read([(denoiser, Home.HOST)])
    values: dict[str, Values] = {}
    for parent, attribute, layer in layers:
        path = paths[id(layer)]
        new = QuantizedLinear(layer, quantization, None if known is None else known[path])
        values[path] = new.weight, new.scale
        setattr(parent, attribute, new)
    if files is not None and name is not None and known is None:
        keep(files, name, values)


def _large_layers(denoiser: Any) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """Layers to quantize, each with its parent and its name there."""
    for block in denoiser.modules():
        if type(block).__name__ not in denoiser._repeated_blocks:  # noqa: SLF001 - diffusers' name
            continue
        for path, layer in block.named_modules():
            if type(layer) is not torch.nn.Linear or _is_delicate(path):
                continue
            if layer.in_features % _ALIGNMENT == 0 == layer.out_features % _ALIGNMENT:
                parent, _, name = path.rpartition(".")
                yield block.get_submodule(parent), name, layer


def _is_delicate(path: str) -> bool:
    # The pattern's anchored names are those of whole models, not of blocks.
    return any(
        re.search(pattern, path) for pattern in DEFAULT_SKIP_MODULES_PATTERN if pattern[0] != "^"
    )


_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def rounds_inputs(module: Any) -> bool:
    """Return whether layers of ``module`` round their inputs to few bits.

    Parameters of other classes than torch's own belong to a quantizer of which nothing is known,
    such as torchao's or bitsandbytes'; it is assumed to do so.
    """
    if not isinstance(module, torch.nn.Module):
        return False
    if any(
        isinstance(submodule, QuantizedLinear) and submodule.rounds_inputs
        for submodule in module.modules()
    ):
        return True
    return any(type(tensor) not in _PLAIN for tensor in (*module.parameters(), *module.buffers()))
