"""Kinds of devices are named in one package (docs/adr/0030-one-port-to-the-accelerator.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from scripts.structure.modules import Module, modules, parse_module

PORT = "deployments/engine/accelerator/"
KINDS = ("cuda", "hip", "mps", "xpu")
OF_DEVICES = frozenset({"cuda", "mps", "xpu", "accelerator", "hip"})
ON_TENSORS = frozenset({"is_cuda", "is_mps", "pin_memory", "is_pinned", "record_stream"})


def test_only_the_port_knows_kinds_of_devices() -> None:
    places = [
        place
        for module in modules()
        if module.path.startswith("deployments/") and not module.path.startswith(PORT)
        for place in device_names(module)
    ]
    assert not places, "\n".join(places)


def test_the_names_are_found() -> None:
    text = (
        "import torch.cuda\n"
        "from torch import cuda\n"
        "torch.cuda.empty_cache()\n"
        "torch.version.cuda\n"
        "device.startswith('cuda')\n"
        "tensor.pin_memory()\n"
        "'a sentence about cuda'\n"
    )
    names = list(device_names(parse_module("deployments/x.py", text)))
    assert [name.split(":")[1].split()[0] for name in names] == ["1", "2", "3", "4", "5", "6"]


def device_names(module: Module) -> Iterator[str]:
    """Places where a module names a kind of device, in the order of their lines."""
    lines = {
        node.lineno: name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.expr | ast.stmt) and (name := _device_name(node))
    }
    yield from (f"{module.path}:{line} {name}" for line, name in sorted(lines.items()))


def _device_name(node: ast.AST) -> str:
    match node:
        case ast.Import(names=names):
            return next((alias.name for alias in names if _of_torch(alias.name)), "")
        case ast.ImportFrom(module=str(source), names=names):
            whole = (f"{source}.{alias.name}" for alias in names)
            return next((full_name for full_name in whole if _of_torch(full_name)), "")
        case ast.Attribute(attr=name) if name in ON_TENSORS or _of_torch(".".join(_parts(node))):
            return name
        case ast.Constant(value=str(text)) if text.partition(":")[0] in KINDS:
            return repr(text)
        case _:
            return ""


def _parts(node: ast.expr) -> list[str]:
    """Names of ``a.b.c``; of a part that is no name, nothing."""
    match node:
        case ast.Attribute(value=value, attr=name):
            return [*_parts(value), name]
        case ast.Name(id=name):
            return [name]
        case _:
            return [""]


def _of_torch(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "torch" and not OF_DEVICES.isdisjoint(parts[1:])
