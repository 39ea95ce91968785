"""The page of the docs about LoRA layouts: ``python -m tests.engine.lora.table PAGE`` writes it."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file

from deployments.engine.lora.format import read_lora
from tests.engine.lora.layouts import FAMILIES, LAYOUTS, Expected, layer_of, write

TOLERANCE = 2e-3

_HEAD = """# LoRA layouts

Each cell is a file with known random weights for a tiny model of the family, in float32.
It is read and compared with what it has to change.
The first mark is Darkroom's, the second that of diffusers {version}.

| mark | meaning |
|---|---|
| ✓ | every layer is changed by what it has to be, within 0.2 % |
| n of m | so many layers are; the others are dropped or wrong, without an error |
| ✗ | refused with an error |
| ? | not known: diffusers fails at the sizes of tensors, maybe because the model is tiny |
| – | the trainer does not make such files |

"""

_TAIL = """
The layers of a cell are of all kinds that the family has.
There are text encoders where the trainer trains them, and norms where the layout has them.
diffusers' part is `load_lora_weights` and then `fuse_lora`.
A single layer that it does not know can make it refuse a file.
`python -m tests.engine.lora.table tests/engine/lora/README.md` generates the page.

## Beside ComfyUI

This is read in ComfyUI's source (`comfy/lora.py`), not run.

- ComfyUI too applies `diff`, `diff_b`, `w_norm` and DoRA, and what `comfy/weight_adapter` has.
  It also applies `set_weight`, which Darkroom refuses.
- It finds layers by the names of the original code, and by those of diffusers for some families.
- A name that it does not know is a line in its log (`lora key not loaded`).
  The image is made without the layer. Darkroom refuses the file.
"""


def main(page: Path) -> None:
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    families = list(FAMILIES)
    rows = [f"| layout | {' | '.join(families)} |", "|---" * (len(families) + 1) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        for name, layout in LAYOUTS.items():
            cells = [
                _cell(family, name, Path(folder) / "lora.safetensors")
                if family in layout.only
                else "–"
                for family in families
            ]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    head = _HEAD.format(version=diffusers.__version__)
    page.write_text(head + "\n".join(rows) + "\n" + _TAIL)


def _cell(family: str, layout: str, file: Path) -> str:
    pipeline = FAMILIES[family].make()
    expected = write(pipeline, FAMILIES[family], LAYOUTS[layout], file)
    changes = read_lora(pipeline, file).changes
    ours: Expected = {}
    for name, change in changes.items():
        weight = layer_of(pipeline, name).weight.detach().float()
        ours[name] = change.merge(weight, 1.0) - weight, getattr(change, "bias", None)
    return f"{_mark(ours, expected)} {_by_diffusers(pipeline, file, expected)}"


def _by_diffusers(pipeline: Any, file: Path, expected: Expected) -> str:
    before = {name: _weights(layer_of(pipeline, name)) for name in expected}
    try:
        pipeline.load_lora_weights(load_file(file))
        pipeline.fuse_lora(components=_components(pipeline))
    except NotImplementedError:
        return "✗"
    except (AssertionError, RuntimeError):  # of tensors that are split by sizes of real models
        return "?"
    except Exception:
        return "✗"
    after = {name: _weights(layer_of(pipeline, name)) for name in expected}
    theirs: Expected = {}
    for name, (weight, bias) in before.items():
        is_other = after[name][1] is not None and bias is not None
        theirs[name] = (
            after[name][0] - weight,
            after[name][1] - bias if is_other else None,
        )
    return _mark(theirs, expected)


def _components(pipeline: Any) -> list[str]:
    return [name for name in pipeline._lora_loadable_modules if getattr(pipeline, name, None)]


def _weights(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    base = getattr(layer, "base_layer", layer)
    bias = None if getattr(base, "bias", None) is None else base.bias.detach().clone()
    return base.weight.detach().clone(), bias


def _mark(actual: Expected, expected: Expected) -> str:
    right = sum(name in actual and _is_right(actual[name], its) for name, its in expected.items())
    return "✓" if right == len(expected) else f"{right} of {len(expected)}"


def _is_right(actual: Any, expected: Any) -> bool:
    pairs = [(its, other) for its, other in zip(actual, expected, strict=True) if other is not None]
    return all(
        its is not None
        and float((its.reshape(other.shape) - other).norm() / other.norm()) <= TOLERANCE
        for its, other in pairs
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
