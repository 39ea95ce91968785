"""Measurements of ``darkroom tune``, the choice among them, and the file that keeps them.

A *tuning* belongs to one model on one kind of machine. It has a measurement for each variant of the
model's recipe. Importing this module does not import torch.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin, get_type_hints

from serve_app.domain.endpoint import HIGH, REGULAR, Endpoint, Recipe, StepCacheLevels, Weights
from weights.links import fingerprint

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.accelerator.interface import Accelerator

log = logging.getLogger(__name__)

PLAIN = "plain"
"""Variant without switches, with which the others are compared."""

HEADROOM = 0.9
"""Largest share of the device's memory that a chosen variant may take: larger images and merged
requests need more than the measurement did."""

WORTHWHILE = 0.97
"""A variant replaces the recipe of the catalogue if it takes at most this share of its time. What
is nearer is noise, and the catalogue's recipe is the one that its author has tried."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts on which measurements depend. A tuning applies only where all of them are the same."""

    device: str  # such as "NVIDIA H200"
    driver: str  # of the device; empty for a CPU
    torch: str
    diffusers: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One variant's figures. With an ``error``, the others are 0."""

    variant: str
    recipe: Recipe
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # changed; None: removed
    step_cache: Mapping[str, Any] = field(default_factory=dict[str, Any])  # empty: every step
    # shortest time of one, with text encoding and decoding; of one with each set of adapters
    generation_s: float = 0.0
    step_s: float = 0.0  # of that, time of one step
    peak_bytes: int = 0  # device memory that was held; on a CPU, of the process
    psnr_db: float | None = None  # None: the same values as the reference's
    similarity: float = 1.0  # lowest MS-SSIM of a prompt's result to the reference's
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    def apply_to(self, endpoint: Endpoint) -> tuple[Endpoint, Recipe]:
        """Endpoint and recipe that load this variant."""
        return with_options(endpoint, self.options), self.recipe


@dataclass(frozen=True, slots=True)
class Tuning:
    """Measurements of one model on one kind of machine."""

    machine: Machine
    model: str  # name of the loaded weights with the catalogue's recipe
    revision: str  # commit, or a fingerprint of a directory's files
    endpoints: tuple[str, ...]  # that share the model
    steps: int  # of each measured generation
    quality: float  # least ``similarity`` of a variant that is chosen
    device_bytes: int  # memory of the device; 0 for a CPU
    default: str = PLAIN  # variant that is the catalogue's recipe
    reference: str = ""  # variant with which the others are compared; empty: none has run
    measurements: tuple[Measurement, ...] = ()
    complete: bool = False  # no variant is left to be measured
    adapters: tuple[str, ...] = ("",)  # that were measured; empty text: none
    # variants that were not measured because of the GPU benchmark, with the reasons
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])

    def same_subject(self, other: Tuning) -> bool:
        return (self.machine, self.model, self.revision) == (
            other.machine,
            other.model,
            other.revision,
        )

    def same_work(self, other: Tuning) -> bool:
        """Return whether the measurements of both can be compared."""
        return (self.steps, self.adapters) == (other.steps, other.adapters)

    def find(self, variant: str) -> Measurement | None:
        return next(
            (measurement for measurement in self.measurements if measurement.variant == variant),
            None,
        )

    def with_measurement(self, new: Measurement) -> Tuning:
        """This tuning with ``new`` in place of an earlier measurement of the same variant."""
        others = (
            measurement for measurement in self.measurements if measurement.variant != new.variant
        )
        return replace(self, measurements=(*others, new))

    def fits(self, measurement: Measurement) -> bool:
        """Return whether the device has memory left for larger work."""
        return not self.device_bytes or measurement.peak_bytes <= HEADROOM * self.device_bytes

    @property
    def chosen_variant(self) -> Measurement | None:
        """Fastest variant within the quality bound. None if the catalogue's recipe should stay."""
        allowed = [
            measurement for measurement in self._usable_measurements() if not measurement.step_cache
        ]
        if not allowed:
            return None
        best = min(allowed, key=lambda measurement: measurement.generation_s)
        default = self.find(self.default)
        if default in allowed and best.generation_s > WORTHWHILE * default.generation_s:
            return None
        return None if best.variant == self.default else best

    @property
    def base(self) -> Measurement | None:
        """Variant that replicas load, over which step caches are measured. None: it did not run."""
        base = self.chosen_variant or self.find(self.default)
        return base if base is not None and base.ok else None

    @property
    def chosen_step_cache(self) -> Measurement | None:
        """Fastest step cache within the quality bound, over ``base``. None if none pays."""
        if (base := self.base) is None:
            return None
        candidates = [
            measurement
            for measurement in self._usable_measurements()
            if measurement.step_cache
            and (measurement.recipe, measurement.options) == (base.recipe, base.options)
            and measurement.generation_s <= WORTHWHILE * base.generation_s
        ]
        return min(candidates, key=lambda measurement: measurement.generation_s, default=None)

    def levels(self, declared: StepCacheLevels) -> StepCacheLevels:
        """Step caches by level: the chosen one is ``regular``. A ``high`` that is declared stays if
        it was measured as the faster one."""
        chosen = self.chosen_step_cache
        if chosen is None:
            return declared
        faster = any(
            measurement.ok
            and measurement.step_cache == declared.get(HIGH)
            and (measurement.recipe, measurement.options) == (chosen.recipe, chosen.options)
            and measurement.generation_s < chosen.generation_s
            for measurement in self.measurements
        )
        regular = {REGULAR: chosen.step_cache}
        return {**regular, HIGH: declared[HIGH]} if faster else regular

    def _usable_measurements(self) -> list[Measurement]:
        return [
            measurement
            for measurement in self.measurements
            if measurement.ok and measurement.similarity >= self.quality and self.fits(measurement)
        ]

    def as_json(self) -> dict[str, Any]:
        """All fields, and the names of the chosen variant and step cache."""
        chosen = {"chosen": self.chosen_variant, "chosen_step_cache": self.chosen_step_cache}
        names = {key: variant and variant.variant for key, variant in chosen.items()}
        return {**asdict(self), **names}

    def speedup(self, measurement: Measurement) -> float | None:
        """Speed relative to the catalogue's recipe, or else to plain. None if neither ran."""
        base = self.find(self.default)
        if base is None or not base.ok:
            base = self.find(PLAIN)
        if base is None or not (base.ok and measurement.ok and measurement.generation_s):
            return None
        return base.generation_s / measurement.generation_s


# JSON.

FORMAT = 1
_DERIVED = ("chosen", "chosen_step_cache")


def to_json(tunings: Sequence[Tuning]) -> dict[str, Any]:
    return {"format": FORMAT, "tunings": [tuning.as_json() for tuning in tunings]}


def from_json(content: Any) -> tuple[Tuning, ...]:
    """Raises ``ValueError`` for content of another format.

    A tuning with fields that this version does not know is left out: its recipe could not be
    applied as it was measured.
    """
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    read: list[Tuning] = []
    for tuning in content["tunings"]:
        try:
            known = {name: value for name, value in tuning.items() if name not in _DERIVED}
            read.append(_value(Tuning, known))
        except TypeError:  # a field that another version has
            continue
    return tuple(read)


def _value(hint: Any, content: Any) -> Any:
    """Value of a field with the type ``hint``. ``TypeError`` for unknown and missing fields."""
    kind = next(
        (candidate for candidate in (hint, *get_args(hint)) if is_dataclass(candidate)), None
    )
    if kind is not None and isinstance(content, Mapping):
        hints = get_type_hints(kind)
        named = cast("Mapping[str, Any]", content)
        values = {name: _value(hints.get(name), value) for name, value in named.items()}
        return cast("Any", kind)(**values)
    if get_origin(hint) is tuple:
        return tuple(_value(get_args(hint)[0], item) for item in content)
    return content


# The file, and the choice of a replica.


class TuningFile:
    """JSON file with the tunings of this installation. One process at a time writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Tuning, ...]:
        """Kept tunings. None are kept without the file, or if it cannot be read, which is
        logged."""
        try:
            return from_json(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is ignored, because it cannot be read: %s.", self.path, error)
            return ()

    def keep(self, tuning: Tuning) -> None:
        """Write ``tuning`` in place of an earlier one of the same subject."""
        self.write([*(stored for stored in self.read() if not stored.same_subject(tuning)), tuning])

    def write(self, tunings: Sequence[Tuning]) -> None:
        """Replace the file in one step: a reader sees the old content or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(to_json(tunings), file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)


class TunedRecipes:
    """Choice of the measured recipe over the catalogue's. For the replica's event loop."""

    def __init__(self, tunings: Sequence[Tuning] = (), machine: Machine | None = None) -> None:
        """``tunings`` of other machines than ``machine`` are not used."""
        self._tunings = {tuning.model: tuning for tuning in tunings if tuning.machine == machine}
        self._others = {tuning.model for tuning in tunings} - set(self._tunings)
        self._found: dict[str, Tuning | None] = {}

    def find(self, name: str, endpoint: Endpoint) -> Measurement | None:
        """Variant to load instead of the catalogue's recipe, if one was chosen.

        ``name``: of the weights that the recipe would load.
        """
        tuning = self._usable(name, endpoint)
        return None if tuning is None else tuning.chosen_variant

    def step_caches(
        self, name: str, endpoint: Endpoint, declared: StepCacheLevels
    ) -> StepCacheLevels:
        """Step caches by level, in place of those that the catalogue declares."""
        tuning = self._usable(name, endpoint)
        return declared if tuning is None else tuning.levels(declared)

    def _usable(self, name: str, endpoint: Endpoint) -> Tuning | None:
        if name not in self._found:
            self._found[name] = self._usable_tuning(name, endpoint)
        return self._found[name]

    def _usable_tuning(self, name: str, endpoint: Endpoint) -> Tuning | None:
        tuning = self._tunings.get(name)
        if tuning is None:
            if name in self._others:
                log.warning(
                    "%s was tuned with another device, driver, torch or diffusers, so the "
                    "catalogue's recipe is used. Run `darkroom tune %s`.",
                    name,
                    endpoint.id,
                )
            return None
        if tuning.revision != revision_of(endpoint.weights):
            log.warning(
                "The files of %s have changed since `darkroom tune`, so the catalogue's recipe is "
                "used. Run `darkroom tune %s`.",
                name,
                endpoint.id,
            )
            return None
        chosen = tuning.chosen_variant
        if chosen is None:
            log.info("%s uses the catalogue's recipe: no measured variant is faster.", name)
        else:
            faster = tuning.speedup(chosen)
            log.info(
                "%s uses the variant %s that `darkroom tune` chose: %.3f s per step%s.",
                name,
                chosen.variant,
                chosen.step_s,
                f", {faster:.2f} times as fast as the recipe" if faster else "",
            )
        if (cache := tuning.chosen_step_cache) is not None:
            log.info(
                "%s uses %s for `acceleration: regular`, as `darkroom tune` chose.",
                name,
                dict(cache.step_cache),
            )
        return tuning


def machine_of(accelerator: Accelerator) -> Machine:
    """Facts of this machine on which measurements depend."""
    return Machine(
        accelerator.model_name(), accelerator.driver(), version("torch"), version("diffusers")
    )


def tuned_recipes(path: Path | None, accelerator: Accelerator) -> TunedRecipes:
    """Choices of the file at ``path`` for the device. None: no choices."""
    if path is None:
        return TunedRecipes()
    return TunedRecipes(TuningFile(path).read(), machine_of(accelerator))


def with_options(endpoint: Endpoint, options: Mapping[str, Any]) -> Endpoint:
    """Endpoint with changed ``options``; those whose value is None are removed."""
    changed = {**endpoint.options, **options}
    return replace(
        endpoint, options={name: value for name, value in changed.items() if value is not None}
    )


def revision_of(weights: Weights) -> str:
    """Text that changes with the files of weights: the hub's commit, or a digest of the names,
    sizes and times of files; with those of a checkpoint and of parts."""
    base = weights.revision or fingerprint(Path(weights.source))
    others = [weights.checkpoint] if weights.checkpoint else []
    others += [part.source for part in weights.parts if part.revision is None]
    text = " ".join(f"{source} {fingerprint(Path(source))}" for source in others)
    return " ".join(filter(None, (base, text, *(part.identity for part in weights.parts))))
