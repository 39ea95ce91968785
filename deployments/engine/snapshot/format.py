"""Snapshots: a half-done generation as bytes, in safetensors with JSON metadata and no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

import diffusers
import numpy as np
import torch
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load, save

from deployments.engine.merging.arguments import digest_of
from deployments.engine.snapshot.call_log import Form
from deployments.engine.snapshot.state import Tree
from serve_app.domain.errors import SnapshotRefused


def of_pipeline(pipeline: Any) -> str:
    """Fingerprint of a pipeline's class and its components' classes and configurations.

    Weights are not read.
    """
    hashed = hashlib.sha256(_name(pipeline).encode())
    for name, component in sorted(getattr(pipeline, "__dict__", {}).items()):
        if config := getattr(component, "config", None):
            entries = config.to_dict() if hasattr(config, "to_dict") else config
            hashed.update(f"{name}{_name(component)}{_config_text(entries)}".encode())
    return hashed.hexdigest()


def of_arguments(arguments: Mapping[str, Any]) -> str:
    """Fingerprint of a call's arguments.

    A random generator counts by its seed, not by how often it was used. Functions and objects that
    cannot be read count by their class.
    """
    return hashlib.sha256(_content(arguments).encode()).hexdigest()


def _config_text(config: Mapping[str, Any]) -> str:
    """Configuration without entries that change from load to load, such as the source path."""
    has = {key: str(value) for key, value in config.items() if key[0] != "_"}
    return str(sorted(has.items()))


def _content(value: Any) -> str:
    for kinds, describe in _KINDS:
        if isinstance(value, kinds):
            return f"{_name(value)}({describe(value)})"
    return _name(value)


def _items(values: Any) -> str:
    return ",".join(map(_content, values))


def _entries(mapping: Mapping[Any, Any]) -> str:
    return ",".join(_sorted_entries(mapping))


def _sorted_entries(mapping: Mapping[Any, Any]) -> Iterator[str]:
    for key in sorted(mapping, key=str):
        yield f"{key!r}:{_content(mapping[key])}"


def _image(image: Image) -> str:
    pixels = hashlib.sha256(image.tobytes()).hexdigest()
    return f"{image.mode} {image.size} {pixels}"


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


_KINDS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    ((str, bytes, bool, int, float, type(None), torch.dtype, torch.device, PurePath), repr),
    (torch.Tensor, lambda tensor: digest_of(tensor).hex()),
    (torch.Generator, lambda generator: f"{generator.device} {generator.initial_seed()}"),
    (np.ndarray, lambda array: f"{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"),
    (Image, _image),
    (Mapping, _entries),
    ((list, tuple), _items),
)


FORMAT = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Properties that must be equal where the generation is resumed."""

    format: int
    torch: str
    diffusers: str
    device: str  # cpu, cuda …
    pipeline: str  # name of its class
    made_of: str  # digest of its components' classes and configurations
    arguments: str  # digest

    @classmethod
    def here(cls, pipeline: Any, arguments: Mapping[str, Any], device: str) -> Origin:
        return cls(
            FORMAT,
            torch.__version__,
            diffusers.__version__,
            device.partition(":")[0],
            type(pipeline).__qualname__,
            of_pipeline(pipeline),
            of_arguments(arguments),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """State of a generation that waits for a denoiser call, or for its autoencoder after the last.

    It is resumed from the contents of its pipeline's frames (``frames``, and the arguments of
    ``call``). If there are ``outputs``, it is resumed by returning the same outputs to the
    pipeline.
    """

    origin: Origin
    loras: Sequence[str]  # digests and scales
    step: int  # completed scheduler steps
    denoisers: Sequence[str]  # names of the components that suspended it
    calls: Sequence[tuple[str, Form]]  # earlier calls: (component, form of the output)
    frames: Sequence[Mapping[str, Any]]  # {"place": …, "locals": {name: tree}}, innermost first
    call: Tree  # the call's arguments and keywords; with outputs, a digest of them
    outputs: Sequence[Tree] | None
    tensors: Mapping[str, torch.Tensor]  # on the CPU
    awaits: str = ""  # name of the pending autoencoder call; empty for a denoiser
    step_caches: Mapping[str, Tree] = field(default_factory=dict)  # their state, by component
    step_cache: str = ""  # settings of the step caches; empty without one

    def to_bytes(self) -> bytes:
        header = {member.name: getattr(self, member.name) for member in fields(self)}
        header |= {"origin": asdict(self.origin), "adapters": header.pop("loras")}
        del header["tensors"]
        return save(dict(self.tensors), metadata={_KEY: json.dumps(header)})

    @classmethod
    def of_bytes(cls, content: bytes) -> Snapshot:
        """Parse a snapshot. Raises ``SnapshotRefused`` for other bytes or another format."""
        try:
            size = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_KEY])
            origin, loras = header.pop("origin"), header.pop("adapters")
            if origin["format"] != FORMAT:
                raise SnapshotRefused(
                    f"The snapshot has format {origin['format']}, but this version of Darkroom "
                    f"reads format {FORMAT}. Start the generation from the beginning."
                )
            return cls(origin=Origin(**origin), loras=loras, tensors=load(content), **header)
        except (
            *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
            SafetensorError,
        ) as error:
            raise SnapshotRefused(
                "These bytes are not a snapshot of a generation. Pass what snapshot() returned."
            ) from error

    def require(self, here: Origin) -> None:
        """Raise ``SnapshotRefused`` if a generation with this origin cannot resume from it."""
        for name, what in _EQUAL.items():
            was, is_now = getattr(self.origin, name), getattr(here, name)
            if was != is_now:
                values = "" if name in _DIGESTS else f" ({was} there, {is_now} here)"
                raise SnapshotRefused(
                    f"The snapshot is of {what}{values}. Submit it with the original settings, or "
                    "start the generation from the beginning."
                )

    def require_loras(self, here: Sequence[str]) -> None:
        """Check the LoRAs, which are known only after they have been read; see ``require``."""
        if list(here) != list(self.loras):
            raise SnapshotRefused(
                "The snapshot is of a generation with other LoRAs or scales. Submit it with the "
                "original ones, or start the generation from the beginning."
            )

    def require_step_cache(self, here: str) -> None:
        """Check the settings of the step cache; see ``require``."""
        if here != self.step_cache:
            raise SnapshotRefused(
                "The snapshot is of a generation with another step cache. Submit it with the "
                "original one, or start the generation from the beginning."
            )


_KEY = "darkroom"
_DIGESTS = ("made_of", "arguments")
_EQUAL = {
    "torch": "another version of torch",
    "diffusers": "another version of diffusers",
    "device": "another kind of device",
    "pipeline": "another pipeline",
    "made_of": "a pipeline with other components",
    "arguments": "a call with other arguments",
}
