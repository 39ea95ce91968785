"""Changes that adapters make to one layer: LoRA, LoKr, LoHa, DoRA and differences.

Formulas are those of peft (``tuners/lora``, ``lokr``, ``loha``) and LyCORIS. Each change can be
merged into a weight, or uploaded and applied to some rows of a forward.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Upload = Callable[[Tensor], Tensor]
"""Copies a tensor to the device, in the dtype that the layer computes in."""


class Change(Protocol):
    """Change of one layer's weight, on the CPU."""

    @property
    def factor(self) -> float:
        """Factor of the change at scale 1."""
        ...

    def fits(self, weight: Tensor) -> bool:
        """Return whether the layer's weight has the size that the change was made for."""
        ...

    def sizes(self) -> list[tuple[int, ...]]:
        """Shapes of the parts, for messages."""
        ...

    def merge(self, weight: Tensor, scale: float) -> Tensor:
        """Return the changed ``weight``. Both are in float32."""
        ...


@dataclass(frozen=True, slots=True)
class LoraPair:
    """LoRA: ``W + factor * up @ down``."""

    down: Tensor  # [rank, in, …]
    up: Tensor  # [out, rank, …]; for a convolution, the kernel of ``up`` has size 1
    factor: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def fits(self, weight: Tensor) -> bool:
        return (
            self.down.shape[1:] == weight.shape[1:]
            and self.up.shape[0] == weight.shape[0]
            and self.up[0].numel() == self.rank
        )

    def sizes(self) -> list[tuple[int, ...]]:
        return [tuple(self.up.shape), tuple(self.down.shape)]

    def merge(self, weight: Tensor, scale: float) -> Tensor:
        # In float32: the change may be smaller than the resolution of a 16-bit type.
        addition = self.up.float().flatten(1) @ self.down.float().flatten(1)
        addition = addition.reshape(weight.shape).to(weight.device)
        return weight + scale * self.factor * addition


@dataclass(frozen=True, slots=True)
class KroneckerChange:
    """LoKr: ``W + factor * kron(left, right)``, of which the layer may have some rows only.

    ``right`` is never multiplied out, because the product of a large model would take gigabytes.
    """

    left: Tensor  # [a, b]
    right: tuple[Tensor, ...]  # factors in the order of application, the first [… , d, …kernel]
    factor: float
    rows: Tensor | None = None  # of the product; None: all

    def fits(self, weight: Tensor) -> bool:
        first, last = self.right[0], self.right[-1]
        rows = self.left.shape[0] * last.shape[0]
        columns = self.left.shape[1] * first[0].numel()
        have = rows if self.rows is None else len(self.rows)
        return have == weight.shape[0] and columns == weight[0].numel()

    def sizes(self) -> list[tuple[int, ...]]:
        return [tuple(matrix.shape) for matrix in (self.left, *self.right)]

    def merge(self, weight: Tensor, scale: float) -> Tensor:
        right = self.right[0].float().flatten(1)
        for matrix in self.right[1:]:
            right = matrix.float().flatten(1) @ right
        kernel = weight.shape[2:]
        right = right.reshape(len(right), -1, *kernel)
        left = self.left.float().reshape(*self.left.shape, *(1 for _ in kernel))
        product = torch.kron(left, right)
        if self.rows is not None:
            product = product[self.rows]
        return weight + scale * self.factor * product.reshape(weight.shape).to(weight.device)


@dataclass(frozen=True, slots=True)
class HadamardChange:
    """LoHa: ``W + factor * (up1 @ down1) * (up2 @ down2)``, elementwise between the products."""

    up1: Tensor  # [out, rank]
    down1: Tensor  # [rank, in × kernel]
    up2: Tensor
    down2: Tensor
    factor: float

    def fits(self, weight: Tensor) -> bool:
        inner = (
            self.down1.shape[0] == self.up1.shape[1] and self.down2.shape[0] == self.up2.shape[1]
        )
        outer = all(
            (len(up), down.shape[1]) == (weight.shape[0], weight[0].numel())
            for up, down in ((self.up1, self.down1), (self.up2, self.down2))
        )
        return inner and outer

    def sizes(self) -> list[tuple[int, ...]]:
        return [tuple(matrix.shape) for matrix in (self.up1, self.down1, self.up2, self.down2)]

    def merge(self, weight: Tensor, scale: float) -> Tensor:
        one, two = self.up1.float() @ self.down1.float(), self.up2.float() @ self.down2.float()
        return weight + scale * self.factor * (one * two).reshape(weight.shape).to(weight.device)


@dataclass(frozen=True, slots=True)
class DoraPair:
    """DoRA: ``W' = W + factor * up @ down``, with each output's row scaled to its magnitude."""

    pair: LoraPair
    magnitude: Tensor  # [out]

    @property
    def factor(self) -> float:
        return self.pair.factor

    def fits(self, weight: Tensor) -> bool:
        return self.pair.fits(weight) and len(self.magnitude) == weight.shape[0]

    def sizes(self) -> list[tuple[int, ...]]:
        return [*self.pair.sizes(), tuple(self.magnitude.shape)]

    def merge(self, weight: Tensor, scale: float) -> Tensor:
        changed = self.pair.merge(weight, scale)
        return _by_row(_gain(changed, self.magnitude.to(weight.device)), weight) * changed


def _gain(changed: Tensor, magnitude: Tensor) -> Tensor:
    return magnitude.float() / torch.linalg.vector_norm(changed.flatten(1), dim=1)


def _by_row(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape(-1, *(1 for _ in weight.shape[1:]))


@dataclass(frozen=True, slots=True)
class DifferenceChange:
    """Difference of a whole weight or of a bias, in addition to what an adapter changes, if any.

    It is the only change of layers that are neither linear nor convolutions, such as norms.
    """

    adapter: Change | None
    weight: Tensor | None  # as the layer's
    bias: Tensor | None  # [out]
    factor: float = 1.0

    def fits(self, weight: Tensor) -> bool:
        parts = [part for part in (self.weight, self.bias) if part is not None]
        return (
            all(part.ndim > 0 and len(part) == len(weight) for part in parts)
            and (self.weight is None or self.weight.numel() == weight.numel())
            and (self.bias is None or self.bias.ndim == 1)
            and (self.adapter is None or self.adapter.fits(weight))
        )

    def sizes(self) -> list[tuple[int, ...]]:
        parts = [part for part in (self.weight, self.bias) if part is not None]
        return [*(self.adapter.sizes() if self.adapter else ()), *(tuple(e.shape) for e in parts)]

    def merge(self, weight: Tensor, scale: float) -> Tensor:
        if self.adapter is not None:
            weight = self.adapter.merge(weight, scale)
        if self.weight is not None:
            weight = weight + scale * self.weight.to(weight).reshape(weight.shape)
        return weight


class AppliedChange(torch.nn.Module):
    """Change on the device. It has no parameters; see ``build_layer``."""

    weight: Tensor  # one of its tensors; peft computes in its dtype

    def compute_delta(self, layer: Any, x: Tensor, result: Tensor, factor: float) -> Tensor:
        """Return what the change adds to ``result``, the output of ``layer`` for ``x``.

        ``layer``: the model's own linear or 2D convolution layer. ``factor``: of the change, with
        the generation's scale.
        """
        raise NotImplementedError


class _AppliedPair(AppliedChange):
    def __init__(self, change: LoraPair, upload: Upload) -> None:
        super().__init__()
        self.weight, self._up = upload(change.down), upload(change.up)

    def compute_delta(self, layer: Any, x: Tensor, result: Tensor, factor: float) -> Tensor:
        del result
        return _product(layer, x, self.weight, self._up) * factor


class _AppliedDifference(AppliedChange):
    """Runs the layer with the difference for its parameters, in which its output is linear."""

    def __init__(self, change: DifferenceChange, layer: Any, upload: Upload) -> None:
        super().__init__()
        self._change = (
            None if change.adapter is None else apply_on_device(change.adapter, layer, upload)
        )
        self._factor = 1.0 if change.adapter is None else change.adapter.factor
        self._weight = (
            None if change.weight is None else upload(change.weight.reshape(layer.weight.shape))
        )
        self._bias = None if change.bias is None else upload(change.bias)
        parts = (None if self._change is None else self._change.weight, self._weight, self._bias)
        self.weight = next(part for part in parts if part is not None)

    def compute_delta(self, layer: Any, x: Tensor, result: Tensor, factor: float) -> Tensor:
        delta = torch.zeros_like(result)
        if self._change is not None:
            delta = delta + self._change.compute_delta(layer, x, result, self._factor * factor)
        if self._weight is not None:
            delta = delta + _with_weight(layer, x, self._weight) * factor
        if self._bias is not None:
            is_conv = isinstance(layer, Convolution)
            shape = (-1, *(1 for _ in layer.kernel_size)) if is_conv else (-1,)
            delta = delta + self._bias.view(shape) * factor
        return delta.to(result.dtype)


def _with_weight(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """Return the layer's output for ``x`` with another weight, and without a bias."""
    if isinstance(layer, torch.nn.Linear):
        return functional.linear(x, weight)
    if isinstance(layer, Convolution):
        return _convolve(layer, x, weight)
    other = copy.copy(layer)  # a norm; without its hooks, which may move the weights
    vars(other).update(_parameters={"weight": weight, "bias": None})
    return type(layer).forward(other, x)


class _AppliedKronecker(AppliedChange):
    def __init__(self, change: KroneckerChange, kernel: tuple[int, ...], upload: Upload) -> None:
        super().__init__()
        first = change.right[0]
        shaped = first.reshape(len(first), -1, *kernel)
        others = [
            matrix.reshape(*matrix.shape, *(1 for _ in kernel)) for matrix in change.right[1:]
        ]
        self._right = [upload(matrix) for matrix in (shaped, *others)]
        self._rows = None if change.rows is None else _part(change.rows)
        self.weight = upload(change.left)

    def compute_delta(self, layer: Any, x: Tensor, result: Tensor, factor: float) -> Tensor:
        del result
        b = self.weight.shape[1]
        if isinstance(layer, torch.nn.Linear):
            inner = x.unflatten(-1, (b, -1))
            for matrix in self._right:
                inner = functional.linear(inner, matrix)
            delta, rows = torch.matmul(self.weight, inner).flatten(-2), -1
        else:
            inner = _convolve(layer, x.reshape(len(x) * b, -1, *x.shape[2:]), self._right[0])
            for matrix in self._right[1:]:
                inner = torch.einsum("or,nr...->no...", matrix.flatten(1), inner)
            inner = inner.unflatten(0, (len(x), b))
            delta, rows = torch.einsum("ab,nbc...->nac...", self.weight, inner).flatten(1, 2), 1
        if self._rows is not None:
            delta = self._rows(delta, rows)
        return delta * factor


class _AppliedHadamard(AppliedChange):
    """The product is computed in each forward, as kept it would be as large as the model."""

    def __init__(self, change: HadamardChange, upload: Upload) -> None:
        super().__init__()
        self.weight, self._down1 = upload(change.up1), upload(change.down1)
        self._up2, self._down2 = upload(change.up2), upload(change.down2)

    def compute_delta(self, layer: Any, x: Tensor, result: Tensor, factor: float) -> Tensor:
        del result
        delta = (self.weight @ self._down1) * (self._up2 @ self._down2)
        if isinstance(layer, torch.nn.Linear):
            return functional.linear(x, delta) * factor
        return _convolve(layer, x, delta.view(layer.weight.shape)) * factor


class _AppliedDora(AppliedChange):
    def __init__(self, change: DoraPair, upload: Upload) -> None:
        super().__init__()
        self.weight, self._up = upload(change.pair.down), upload(change.pair.up)
        self._magnitude = upload(change.magnitude)
        self._gains: dict[float, Tensor] = {}  # [out], by factor

    def compute_delta(self, layer: Any, x: Tensor, result: Tensor, factor: float) -> Tensor:
        gain = self._gain(layer, factor).to(result.dtype)
        pair = _product(layer, x, self.weight, self._up)
        shape = (
            (-1,) if isinstance(layer, torch.nn.Linear) else (-1, *(1 for _ in layer.kernel_size))
        )
        gain, bias = gain.view(shape), layer.bias
        # The bias may be stored in 8 bits, which cannot be computed in.
        without_bias = result if bias is None else result - bias.to(result.dtype).view(shape)
        return (gain - 1) * without_bias + gain * pair * factor

    def _gain(self, layer: Any, factor: float) -> Tensor:
        """Factor of each output. In the first forward, as weights may be elsewhere before it."""
        if (gain := self._gains.get(factor)) is None:
            if len(self._gains) >= _MAX_GAINS:
                self._gains.clear()
            weight = layer.weight.detach().float()
            pair = LoraPair(self.weight, self._up, factor)
            gain = self._gains[factor] = _gain(pair.merge(weight, 1.0), self._magnitude)
        return gain


_MAX_GAINS = 8  # scales of one DoRA


def apply_on_device(change: Change, layer: Any, upload: Upload) -> AppliedChange:
    """Upload a change that is computed by itself."""
    match change:
        case KroneckerChange():
            return _AppliedKronecker(change, tuple(layer.weight.shape[2:]), upload)
        case HadamardChange():
            return _AppliedHadamard(change, upload)
        case DoraPair():
            return _AppliedDora(change, upload)
        case LoraPair():
            return _AppliedPair(change, upload)
        case DifferenceChange():
            return _AppliedDifference(change, layer, upload)
        case _:
            raise TypeError(f"{type(change).__name__} is not applied this way.")


Convolution = torch.nn.Conv2d | torch.nn.Conv3d


def _convolve(layer: Any, x: Tensor, kernel: Tensor) -> Tensor:
    return layer._conv_forward(x, kernel, None)  # noqa: SLF001 - with the layer's own padding


def _product(layer: Any, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return ``up`` of ``down`` of ``x``: of a convolution, ``up`` has a kernel of size 1."""
    if isinstance(layer, torch.nn.Linear):
        return functional.linear(functional.linear(x, down), up)
    return torch.einsum("or,nr...->no...", up.flatten(1), _convolve(layer, x, down))


def _part(rows: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Return a function that takes rows of a dimension by runs, without an index.

    Other devices can get it as it is. There are one or two runs.
    """
    breaks = [0, *(torch.nonzero(rows.diff() != 1).flatten() + 1).tolist(), len(rows)]
    runs = [(int(rows[i]), j - i) for i, j in itertools.pairwise(breaks)]
    return partial(_take_runs, runs)


def _take_runs(runs: list[tuple[int, int]], tensor: Tensor, dim: int) -> Tensor:
    parts = [tensor.narrow(dim, first, count) for first, count in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
