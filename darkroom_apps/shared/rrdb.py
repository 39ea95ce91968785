"""Networks of Real-ESRGAN (BSD-3-Clause), whose layers have the names in its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, leaky_relu, pixel_unshuffle

import darkroom

SLOPE = 0.2  # of the leaky ReLU
WEIGHT = 0.2  # of what a block adds to its input
WRAPPERS = "params_ema", "params"  # keys of the weights in files of its authors


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it have made."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 6):
            out_channels = growth if number < 5 else features
            seen = features + (number - 1) * growth
            self.add_module(f"conv{number}", nn.Conv2d(seen, out_channels, 3, padding=1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        seen = features
        *inner, last = self.children()
        for conv in inner:
            seen = torch.cat([seen, leaky_relu(conv(seen), SLOPE)], 1)
        return features + WEIGHT * last(seen)


class Block(nn.Module):
    """Three dense blocks in a row."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + WEIGHT * self.rdb3(self.rdb2(self.rdb1(features)))


class Network(nn.Module):
    """Makes images of [1, 3, H, W] larger by ``scale``: 4, or less if it folds its input."""

    def __init__(self, features: int, growth: int, blocks: int, fold: int) -> None:
        """``fold``: pixels a side whose colours are one pixel's channels at first."""
        super().__init__()
        self.fold, self.scale = fold, 4 // fold
        self.conv_first = nn.Conv2d(3 * fold**2, features, 3, padding=1)
        self.body = nn.Sequential(*(Block(features, growth) for _ in range(blocks)))
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            self.add_module(name, nn.Conv2d(features, features, 3, padding=1))
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        height, width = pixels.shape[-2:]
        around = (0, -width % self.fold, 0, -height % self.fold)
        pixels = nn.functional.pad(pixels, around, mode="replicate")
        first = self.conv_first(pixel_unshuffle(pixels, self.fold))
        seen = first + self.get_submodule("conv_body")(self.body(first))
        for name in ("conv_up1", "conv_up2"):
            doubled = interpolate(seen, scale_factor=2, mode="nearest")
            seen = leaky_relu(self.get_submodule(name)(doubled), SLOPE)
        return self.conv_last(leaky_relu(self.get_submodule("conv_hr")(seen), SLOPE))


def load(file: Path) -> Network:
    """Network with the weights of a file, whose sizes say how large it is. No code of the file
    is run. ``AppError``: it is of another kind."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        checkpoint: Any = load_file(file)
    else:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    weights: Mapping[str, Any] = next(
        (checkpoint[wrapper] for wrapper in WRAPPERS if wrapper in checkpoint), checkpoint
    )
    try:
        features, channels = weights["conv_first.weight"].shape[:2]
        growth = weights["body.0.rdb1.conv1.weight"].shape[0]
        blocks = len({name.split(".")[1] for name in weights if name.startswith("body.")})
        network = Network(features, growth, blocks, {3: 1, 12: 2, 48: 4}[channels])
        network.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise darkroom.AppError(f"{file.name} has no weights of Real-ESRGAN's RRDBNet") from error
    return network.eval()
