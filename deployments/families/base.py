"""What a family is: how an endpoint's input becomes a pipeline call, and its result an output.

Everything else (queueing, stepping, uploading) is the same for all families. Importing a family
must not import torch: the control plane binds them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from deployments.adapter_input import AskedAdapter
from deployments.engine.declarations import Declarations, ModelFamily
from deployments.engine.families.known import KNOWN
from deployments.media_file import MediaFile
from deployments.recording import Recording
from deployments.scratch import Scratch
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """A call of a pipeline, and what is to be remembered until its result is there."""

    arguments: Mapping[str, Any]  # of the pipeline's ``__call__``
    facts: Mapping[str, Any] = field(default_factory=dict)  # for ``deliver``
    makes_files: bool = True  # False: ``deliver`` is quick, and runs on the event loop
    view: Any = None  # a pipeline over the loaded one's weights to call in its place
    recording: Recording | None = None  # takes the frames of a clip while it is decoded
    adapters: Sequence[Any] = ()  # ``engine.adapter.Adapter``, for this generation alone


@dataclass(frozen=True, slots=True)
class Made:
    """What came out of the engine."""

    result: Any  # as the pipeline returned it
    inference_s: float
    steps: int
    scratch: Scratch = field(default_factory=Scratch)  # for files that are too large for memory


@dataclass(frozen=True, slots=True)
class Product:
    """A generation's files and its output, in the form that ``Outcome.output`` describes."""

    output: Mapping[str, Any]
    files: Sequence[MediaFile] = ()
    units: float = 0.0  # as ``Usage.units``


class Family(Protocol):
    """Made without arguments, once per replica; holds no state."""

    @property
    def name(self) -> str:
        """As endpoints name it."""
        ...

    def load(self, endpoint: Endpoint, device: str) -> Any:
        """The pipeline for ``endpoint.weights``, on the CPU, in the ``dtype`` of the options, which
        is the recipe's where there is one. Weights of the hub lie in a directory by then. Runs on
        the loader's thread; may take minutes."""
        ...

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        """The call for a validated input. ``seed`` is for inputs that have none. Quick.

        Where the endpoint's ``task`` begins with files (``task.GIVEN_FILES``), the input has what
        was read of them in place of their URLs, and this runs on a thread.
        """
        ...

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        """The files, one per ticket used, and the output. On a thread of its own."""
        ...


@runtime_checkable
class WarmsUp(Protocol):
    """A family that can make a short generation: on a GPU the first is slow, so no user's."""

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        """One step at the usual size. Runs on the loader's thread."""
        ...


@runtime_checkable
class TakesAdapters(Protocol):
    """A family whose inputs may ask for adapters. They are fetched before ``prepare``, and added to
    the call that it makes."""

    def adapters(self, input: Mapping[str, Any]) -> Sequence[AskedAdapter]:
        """``InvalidInput`` for what is wrong with the field."""
        ...


@runtime_checkable
class DeclaresModels(Protocol):
    """A family of models that the engine has to be told something about."""

    @property
    def models(self) -> ModelFamily:
        """By the names of their classes. Beside what the engine knows (``engine/families``)."""
        ...


def declarations_of(families: Mapping[str, Family]) -> Declarations:
    """For the engine: what it knows, and what the families have to say."""
    return KNOWN.also(each.models for each in families.values() if isinstance(each, DeclaresModels))


def load_families(paths: Mapping[str, str]) -> dict[str, Family]:
    """Families by name, from ``module:Class`` paths. ``Misconfigured`` when one is not there."""
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
