"""Endpoint specification: everything a replica needs to serve a model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any, Literal, cast

from serve_app.domain.errors import InvalidInput
from serve_app.domain.executors.kinds import ExecutorFacts, facts_of, option_of
from serve_app.domain.serialization import pickle_by_name

CONTEXT_MARK = "x-darkroom-context"
"""Mark of the field of a JSON Schema that is the context of a call in Cog's API, not an input."""


@pickle_by_name
@dataclass(frozen=True, slots=True)
class WeightsPart:
    """Component of a pipeline that comes from elsewhere, such as a ControlNet."""

    component: str
    source: str  # absolute directory, or ``owner/name`` on the hub
    revision: str | None = None  # commit hash; required for the hub
    folder: str = ""  # inside; empty: its files are not in a folder
    file: str = ""  # inside, of an IP-Adapter, in place of a folder

    @property
    def place(self) -> str:
        """Text for users that says where it comes from."""
        inside = self.file or self.folder
        return self.source + (f"/{inside}" if inside else "")

    @property
    def identity(self) -> str:
        """Text that differs for other parts."""
        return f"{self.component} {self.place}" + (f"@{self.revision}" if self.revision else "")


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Weights:
    """A model's files: a directory on the replica's node, or a hub repository."""

    source: str  # absolute directory, or ``owner/name`` on the hub
    revision: str | None = None  # commit hash; required for the hub
    demo: bool = False  # Darkroom's own tiny model, never passed off as the real one
    variant: str | None = None  # such as fp16, if a component has files of several variants
    files: tuple[str, ...] = ()  # files that are needed of the repository; none: a pipeline
    checkpoint: str = ""  # one file with ``components``: an absolute path, owner/name/file@commit
    components: tuple[str, ...] = ()  # not needed of the source, but of ``checkpoint``
    folder: str | None = None  # the one component that is needed of the source, and no pipeline
    parts: tuple[WeightsPart, ...] = ()  # components not of the source; of one name: together
    pipeline: str = ""  # class that the source and the parts make; empty: that of the source
    version: str = ""  # of directories and files; those of another version are loaded again


# Largest work that the memory of a recipe was computed for.

TOLERANCE = 1.02
"""Sides and frames are rounded up to what a model can render; that is not the sender's doing."""


@dataclass(frozen=True, slots=True)
class RequestedWork:
    """What one call of a pipeline makes: so many images or videos of one size."""

    width: int  # pixels
    height: int
    frames: int = 1
    images: int = 1  # made together

    @property
    def megapixels(self) -> float:
        """Megapixels of one frame, with all images of the call."""
        return self.width * self.height * self.images / 1e6

    @property
    def volume(self) -> float:
        """Megapixels of all frames."""
        return self.megapixels * self.frames


@pickle_by_name
@dataclass(frozen=True, slots=True)
class WorkLimit:
    """Largest work of a recipe: so many frames of so many megapixels, or as much in another shape.

    An image is one frame. Images that one call makes together count together.
    """

    megapixels: float
    frames: int = 1
    tile_above: float | None = None
    """Megapixels of a frame above which the autoencoder works in tiles; None: never."""

    @property
    def volume(self) -> float:
        """Megapixels of all frames."""
        return self.megapixels * self.frames

    def needs_tiles(self, work: RequestedWork) -> bool:
        return self.tile_above is not None and work.megapixels > self.tile_above * TOLERANCE

    def check(self, work: RequestedWork, endpoint_id: str, memory_gb: float) -> None:
        """Raise ``InvalidInput``, which names the field and the largest value that is allowed, if
        ``work`` is too large."""
        if work.volume <= self.volume * TOLERANCE:
            return
        where = (
            f"on GPUs of the class that this installation uses ({memory_gb:g} GB), {endpoint_id}"
        )
        field, sentence = self._largest(work)
        message = f"{_describe_work(work)}; {where} makes at most {sentence}"
        raise InvalidInput.of_field(field, message, "work_too_large")

    def _largest(self, work: RequestedWork) -> tuple[str, str]:
        """Field to make smaller, and its largest value while the other fields stay."""
        shape = f"{work.width}×{work.height}"
        frames = int(self.volume / work.megapixels)
        if work.frames > 1 and frames > 1:
            return "num_frames", f"{frames} frames of {shape}"
        if (images := int(self.volume / work.volume * work.images)) >= 1 < work.images:
            return "num_images", f"{images} of {shape} at once"
        megapixels = self.volume / work.frames / work.images
        side = int(sqrt(megapixels * 1e6))
        field = "image_size" if work.frames == 1 else "resolution"
        return field, f"{_number(megapixels)} megapixels here, such as {side}×{side}"


def _describe_work(work: RequestedWork) -> str:
    parts = [f"{work.width}×{work.height}"]
    parts += [f"{work.frames} frames"] if work.frames > 1 else []
    parts += [f"{work.images} images"] if work.images > 1 else []
    return f"{' × '.join(parts)} is {_number(work.volume)} megapixels"


def _number(megapixels: float) -> str:
    return f"{megapixels:.2f}" if megapixels >= 0.1 else f"{megapixels:.2g}"


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Recipe:
    """Format of a model's weights on a device with at least this much memory."""

    memory_gb: float  # of the device, as sold
    precision: str  # a type of weights, or one of ``EIGHT_BITS``
    offload: str = (
        "none"  # "components" or "blocks": the unit that is moved to and from host memory
    )
    hot: tuple[str, ...] = ()  # components of the pipeline that stay on the device
    compile: bool = False  # compile the denoisers' repeated blocks
    compile_decoder: bool = False  # compile the image autoencoder's decoder, too
    graphs: bool = False  # record the denoisers' forwards, and launch each as one piece
    # types of components that would not fit in those of the endpoint's options
    dtypes: Mapping[str, str] = field(default_factory=dict)
    attention: str = ""  # of denoisers: diffusers' backend; empty: torch's own
    largest: WorkLimit | None = None  # that the memory was computed for; None: unknown
    # step caches on this class of device, in place of the option's (see ``levels_of``)
    step_cache: Mapping[str, Any] = field(default_factory=dict)

    @property
    def compiles(self) -> bool:
        """Return whether a part is compiled."""
        return self.compile or self.compile_decoder


Precision = Literal[
    "float32",
    "float16",
    "bfloat16",
    "float8",
    "int8-weights",
    "int8-dynamic",
    "float8-dynamic",
]
"""Precisions of recipes."""

EIGHT_BITS = ("float8", "int8-weights", "int8-dynamic", "float8-dynamic")
"""Precisions in 8 bits, of weights that are loaded in the type of the endpoint's options."""

EIGHT_BITS_MIN_SHARE = 0.05
"""Smallest share of a pipeline's weights at which a component is stored in 8 bits; below, little is
saved."""

RESERVED_SHARE = 0.03
"""Share of a GPU's memory that its driver and its error correction may reserve: programs see 23.6
of the 24 GB of an L4."""


def fitting(recipes: Sequence[Recipe], device_bytes: int) -> Recipe | None:
    """Last of ``recipes``, which are sorted by memory, that fits a device with ``device_bytes``.
    None if it is too small for all."""
    enough = [
        recipe
        for recipe in recipes
        if recipe.memory_gb * (1 - RESERVED_SHARE) * 1e9 <= device_bytes
    ]
    return enough[-1] if enough else None


_WORD = re.compile(r"\w+")
_LONGEST_PROMPT = 2000  # characters that are looked at


MAX_SEARCH = 1000
"""Characters of the words for which endpoints are searched. A million words took two seconds, in
which no other call was answered."""


@pickle_by_name
@dataclass(frozen=True)
class Endpoint:
    """The full specification of a public model id.

    It is sent with every lease, so the catalogue can change without restarting replicas. ``digest``
    identifies its version.
    """

    id: str  # such as ``fal-ai/flux/schnell``
    family: str  # name of the code that serves it
    weights: Weights
    schema: str  # name of its input schema
    defaults: Mapping[str, Any] = field(default_factory=dict)  # override the schema's defaults
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # field → (least, most)
    options: Mapping[str, Any] = field(default_factory=dict)  # for the family: native size, dtype …
    display_name: str = ""
    description: str = ""
    category: str = "text-to-image"
    licence: str = ""
    recipes: tuple[Recipe, ...] = ()  # sorted by memory, ascending
    demo_words: tuple[str, ...] = ()  # all that a demo model knows; none: they are not known

    def unknown_words(self, prompt: object) -> list[str]:
        """Different words of the prompt that the demo model does not know, in their order. Empty
        for other models."""
        text = prompt[:_LONGEST_PROMPT].lower() if isinstance(prompt, str) else ""
        words = dict.fromkeys(_WORD.findall(text if self.demo_words else ""))
        return [word for word in words if word not in self.demo_words]

    def recipe_for(self, device_bytes: int) -> Recipe | None:
        """Recipe for a device with ``device_bytes``. None if it is too small, or if the endpoint
        has no recipes."""
        return fitting(self.recipes, device_bytes)

    def is_too_large_for(self, device_bytes: int) -> bool:
        """True if it has recipes, and each needs a larger GPU."""
        return bool(self.recipes) and self.recipe_for(device_bytes) is None

    @property
    def executor(self) -> ExecutorFacts:
        """Facts about the kind of its executor."""
        return facts_of(self.family)

    @property
    def executor_option(self) -> Mapping[str, Any]:
        """Option with what its executor runs. Empty if it has none."""
        return option_of(self.family, self.options)

    @property
    def runs_in_executor(self) -> bool:
        """True if no engine runs it: a provider does, or its schemas are data of its entry, and it
        has no weights."""
        return self.executor.is_hosted or (self.schema == "json" and not self.weights.source)

    @property
    def streams(self) -> bool:
        """True if it is a generator of an app, whose values are partial results."""
        return self.executor_option.get("streams") is True

    @property
    def takes_requests(self) -> bool:
        """False for a route of an app that has realtime sessions only."""
        session = self.executor_option.get("session")
        return not isinstance(session, Mapping) or session.get("only") is not True

    def has_words(self, words: str) -> bool:
        """Return whether its id, name, description or category have all of these words."""
        text = " ".join((self.id, self.display_name, self.description, self.category)).lower()
        return all(word in text for word in words.lower().split())

    @property
    def kind(self) -> str:
        """What it makes, by its category: image, video, audio, text or 3d."""
        return self.category.rpartition("-to-")[2]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the specification, first 16 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# Step caches that an endpoint declares, by the level of acceleration that a request asks for. A
# step cache reuses results of a denoiser's earlier steps, which makes generations faster and
# changes their results.

ACCELERATION = "acceleration"
"""Input field of fal's that chooses the level."""

STEP_CACHE = "step_cache"
"""Option of an endpoint, and key of its recipes."""

NONE, REGULAR, HIGH = "none", "regular", "high"

StepCacheLevels = Mapping[str, Mapping[str, Any]]
"""Level → ``name`` of a step cache and its settings."""


def levels_of(declared: Any) -> StepCacheLevels:
    """Step caches by level. ``declared``: one cache, for ``regular``, or one for each level; None
    for none. Raises ``ValueError`` for anything else."""
    if declared is None:
        return {}
    if not isinstance(declared, Mapping):
        raise ValueError(f"it is {declared!r}; it must be a mapping")  # noqa: TRY004
    levels = cast("Mapping[str, Any]", declared)
    if not levels.keys() & {REGULAR, HIGH}:
        levels = {REGULAR: levels}
    for level, settings in levels.items():
        if level not in (REGULAR, HIGH):
            raise ValueError(f"there is no level {level!r}; levels are {REGULAR} and {HIGH}")
        if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
            raise ValueError(f"{level}: a step cache is a mapping with a `name`")  # noqa: TRY004
    return levels


def requested_cache(levels: StepCacheLevels, input: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Step cache for an input: that of the highest level up to the requested one.

    None for ``none``, whatever is declared. An input without the field gets ``regular``.
    """
    level = input.get(ACCELERATION) or REGULAR
    if level == HIGH and HIGH in levels:
        return levels[HIGH]
    return None if level == NONE else levels.get(REGULAR)


def has_step_caches(endpoint: Endpoint, recipe: Recipe | None) -> bool:
    return STEP_CACHE in endpoint.options or bool(recipe and recipe.step_cache)


def declared_levels(endpoint: Endpoint, recipe: Recipe | None) -> StepCacheLevels:
    """Step caches of ``endpoint`` where it is loaded by ``recipe``, whose own take precedence."""
    if recipe is not None and recipe.step_cache:
        return levels_of(recipe.step_cache)
    return levels_of(endpoint.options.get(STEP_CACHE))


def described_levels(endpoint: Endpoint) -> str:
    """Sentences for users about what each level does. Empty if the endpoint has no step cache."""
    recipes: tuple[Recipe | None, ...] = endpoint.recipes or (None,)
    texts = [_levels_text(declared_levels(endpoint, recipe)) for recipe in recipes]
    sentences = list(dict.fromkeys(text for text in texts if text))
    if not sentences:
        return ""
    if len(sentences) == len(set(texts)) == 1:
        return f"{sentences[0]} `{NONE}` computes every step."
    return f"{' or '.join(sentences)} It depends on the GPU. `{NONE}` computes every step."


def _levels_text(levels: StepCacheLevels) -> str:
    named = {level: _text(settings) for level, settings in sorted(levels.items(), reverse=True)}
    if REGULAR in named:
        named.setdefault(HIGH, f"as `{REGULAR}`")
    return "; ".join(f"`{level}`: {text}" for level, text in named.items()) + "." if named else ""


def _text(settings: Mapping[str, Any]) -> str:
    """Name with its settings; long lists are left out."""
    values = [
        f"{name} {value}"
        for name, value in settings.items()
        if name != "name" and not isinstance(value, list)
    ]
    return f"{settings['name']} ({', '.join(values)})" if values else str(settings["name"])


# Aliases: models of other services, and the endpoint that serves each one by default. The setting
# ``DARKROOM_MODEL_ALIASES`` changes them. Code written for another service names that service's
# models. If the catalogue has the same model, the alias leads to it. Models that only the other
# service has lead to an endpoint for the same kind of work, and responses say which endpoint it
# was.

DEFAULT_IMAGE_MODEL = "gpt-image-1"
DEFAULT_CLIP_MODEL = "sora-2"
DEFAULT_TRANSCRIPTION_MODEL = "whisper-1"
DEFAULT_SPEECH_MODEL = "tts-1"
"""Models for calls to the OpenAI protocol that name no model."""

_IMAGES = "fal-ai/fast-sdxl"  # supports all image tasks, and allows commercial use
_VIDEOS = "fal-ai/wan/v2.2-5b/text-to-video"
_TRANSCRIPTS, _SPEECH = "fal-ai/whisper", "fal-ai/dia-tts"  # of apps that come along

MODEL_ALIASES: Mapping[str, str] = {
    DEFAULT_IMAGE_MODEL: _IMAGES,
    "gpt-image-1-mini": _IMAGES,
    "gpt-image-1.5": _IMAGES,
    "gpt-image-2": _IMAGES,
    "gpt-image-*": _IMAGES,
    "chatgpt-image-latest": _IMAGES,
    "dall-e-2": _IMAGES,
    "dall-e-3": _IMAGES,
    DEFAULT_CLIP_MODEL: _VIDEOS,
    "sora-2-pro": _VIDEOS,
    "sora-2-*": _VIDEOS,
    DEFAULT_TRANSCRIPTION_MODEL: _TRANSCRIPTS,
    "gpt-transcribe": _TRANSCRIPTS,
    "gpt-4o-transcribe": _TRANSCRIPTS,
    "gpt-4o-mini-transcribe": _TRANSCRIPTS,
    DEFAULT_SPEECH_MODEL: _SPEECH,
    "tts-1-hd": _SPEECH,
    "gpt-4o-mini-tts": _SPEECH,
    "black-forest-labs/flux-schnell": "fal-ai/flux/schnell",
    "black-forest-labs/flux-dev": "fal-ai/flux/dev",
    "black-forest-labs/flux-dev-lora": "fal-ai/flux-lora",
    "stability-ai/sdxl": "fal-ai/fast-sdxl",
    "qwen/qwen-image": "fal-ai/qwen-image",
    "prunaai/z-image-turbo": "fal-ai/z-image/turbo",
    "bytedance/sdxl-lightning-4step": "fal-ai/fast-lightning-sdxl",
    "wan-video/wan-2.2-5b-fast": _VIDEOS,
    "wan-video/wan-2.2-t2v-fast": "fal-ai/wan/v2.2-a14b/text-to-video/turbo",
    "wan-video/wan-2.2-i2v-fast": "fal-ai/wan/v2.2-a14b/image-to-video/turbo",
    "wan-video/wan-2.2-i2v-a14b": "fal-ai/wan/v2.2-a14b/image-to-video",
    "wavespeedai/wan-2.1-t2v-720p": "fal-ai/wan-t2v",
    "wavespeedai/wan-2.1-i2v-720p": "fal-ai/wan-i2v",
    "tencent/hunyuan-video": "fal-ai/hunyuan-video",
    "lightricks/ltx-video": "fal-ai/ltx-video",
    "stackadoc/stable-audio-open-1.0": "fal-ai/stable-audio",
    "nightmareai/real-esrgan": "fal-ai/esrgan",
}


# Location and source of the weights on a node.


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Settings of the weight store. Sent between processes, so it contains no secret: the libraries
    that use the hub's token and the mirror's credentials read them where they are used."""

    directory: Path | None = None  # None: the hub's own cache (HF_HUB_CACHE, HF_HOME)
    max_bytes: int = 0  # limit for files that the store itself has fetched; 0: no limit
    mirror: str = ""  # s3://bucket/prefix, tried before the hub; empty: none
    mirror_endpoint_url: str = ""  # empty: AWS, or the value of AWS's own settings
    mirror_profile: str = ""  # of AWS's own files; empty: AWS's default credential chain
    offline: bool = False  # fetch nothing and open no connection
    shared_directory: Path | None = None  # only read, before anything is downloaded
    peers: int = 0  # other nodes that a replica sends weights to at once; 0: no exchange
    peer_bytes_per_s: int = 0  # that a replica sends, in total; 0: no limit
