"""Family protocol: turns an endpoint's input into a pipeline call, and its result into an output.

Everything else (queueing, stepping, uploading) is the same for all families. Importing a family
must not import torch: the control plane binds them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

from deployments.engine.interception.model_traits import KNOWN, ModelFamily, ModelTraits
from deployments.engine.media.scratch import Scratch
from deployments.families.video_recorder import VideoRecorder
from deployments.transfer.lora_fetcher import RequestedLora
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, RequestedWork
from serve_app.domain.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """Arguments of a pipeline call, and facts to keep until its result arrives."""

    arguments: Mapping[str, Any]  # of the pipeline's ``__call__``
    output_facts: Mapping[str, Any] = field(default_factory=dict)  # for ``deliver``
    makes_files: bool = True  # False: ``deliver`` is quick, and runs on the event loop
    view: Any = None  # a pipeline over the loaded one's weights, called in its place
    recording: VideoRecorder | None = None  # takes the frames of a video while it is decoded
    work: RequestedWork | None = None  # what the call makes, against the limit of the recipe
    loras: Sequence[Any] = ()  # ``engine.lora.format.Lora``, for this generation only
    set_up: Any = None  # ``engine.loop.options.PipelineSetup``, for this generation only


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Result of the engine."""

    result: Any  # as the pipeline returned it
    inference_s: float
    steps: int
    scratch: Scratch = field(default_factory=Scratch)  # for files too large for memory


def first_output(result: Any, *names: str) -> Any:
    """What a pipeline has made: the first of ``names`` that its result has. ``Misconfigured`` if it
    has none of them."""
    for name in names:
        value = result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)
        if value is not None:
            return value
    raise Misconfigured(
        f"The pipeline has returned no {' or '.join(names)}. Check that the endpoint's `family` is "
        "that of what its pipeline makes."
    )


@dataclass(frozen=True, slots=True)
class Product:
    """Files and output of a generation, in the form that ``Outcome.output`` describes."""

    output: Mapping[str, Any]
    files: Sequence[MediaFile] = ()
    units: float = 0.0  # see ``Usage.units``
    share: float = 1.0  # see ``Usage.share``


def file_entry(file: MediaFile) -> dict[str, Any]:
    """A file of the output."""
    return {
        "artifact": file.ticket.key,
        "content_type": file.ticket.media_type,
        "file_size": file.size,
    }


def image_entry(file: MediaFile) -> dict[str, Any]:
    """An image or a video of the output."""
    return {**file_entry(file), "width": file.width, "height": file.height}


def demo_facts(endpoint: Endpoint, prompt: object) -> Mapping[str, Any]:
    """Fields of an output that say that a demo model made it; none for other models."""
    unknown = endpoint.unknown_words(prompt)
    facts = {"darkroom_demo": endpoint.weights.demo, "darkroom_demo_unknown": unknown}
    return {name: fact for name, fact in facts.items() if fact}


class Family(Protocol):
    """Stateless adapter between endpoints and pipelines. Created without arguments, once per
    replica."""

    @property
    def name(self) -> str:
        """Name that endpoints use for this family."""
        ...

    def load(self, endpoint: Endpoint, device: str) -> Any:
        """Load the pipeline for ``endpoint.weights`` on the CPU, in the ``dtype`` of the options;
        if there is a recipe, this is the recipe's dtype. Weights of the hub have already been
        downloaded to a directory. Runs on the loader's thread and may take minutes."""
        ...

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        """Build the call for a validated input. ``seed`` is for inputs without one. Must be quick.

        If the endpoint takes files (``options.file_fields``), the input contains the
        decoded files in place of their URLs, and this runs on a thread.
        """
        ...

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        generated: GenerationResult,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        """Build the files, one per ticket used, and the output. Runs on its own thread."""
        ...


@runtime_checkable
class WarmsUp(Protocol):
    """Family with a warm-up: the first generation on a GPU is slow and should not be a user's."""

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        """Build a call of one step at the usual size. Runs on the loader's thread."""
        ...


@runtime_checkable
class TakesLoras(Protocol):
    """Family whose inputs may name LoRAs. They are fetched before ``prepare`` and added to the call
    that it returns."""

    def loras(self, input: Mapping[str, Any]) -> Sequence[RequestedLora]:
        """LoRAs that the input names. Raises ``InvalidInput`` if the field is invalid."""
        ...


@runtime_checkable
class DeclaresModelTraits(Protocol):
    """Family whose models have traits that the engine must know."""

    @property
    def models(self) -> ModelFamily:
        """Traits by model class name, in addition to the engine's own."""
        ...


@cache
def _is(kind: type, protocol: type) -> bool:
    """True if instances of ``kind`` have the methods of ``protocol``. Cached, because a check of a
    protocol takes longer than all else that is decided per attempt (measured: 6 % of a replica
    without work to do)."""
    return issubclass(kind, protocol)


def family_loras(family: Family, input: Mapping[str, Any]) -> Sequence[RequestedLora]:
    """LoRAs that an input names; none if the family takes none. Raises ``InvalidInput``."""
    return cast("TakesLoras", family).loras(input) if _is(type(family), TakesLoras) else ()


def as_warming_up(family: Family) -> WarmsUp | None:
    """The family, or None if it has no warm-up."""
    return cast("WarmsUp", family) if _is(type(family), WarmsUp) else None


def model_rules_of(families: Mapping[str, Family]) -> ModelTraits:
    """Model rules for the engine: the built-in ones and those of the families."""
    return KNOWN.with_families(
        family.models for family in families.values() if isinstance(family, DeclaresModelTraits)
    )


def load_families(paths: Mapping[str, str]) -> dict[str, Family]:
    """Load families from ``module:Class`` paths, by name. ``Misconfigured`` if one is missing."""
    families: dict[str, Family] = {}
    for name, path in paths.items():
        module, _, attribute = path.partition(":")
        try:
            families[name] = getattr(import_module(module), attribute)()
        except (ImportError, AttributeError, ValueError) as error:
            raise Misconfigured(
                f"The family {name!r} cannot be found at {path!r} (module:Class): {error}"
            ) from error
    return families
