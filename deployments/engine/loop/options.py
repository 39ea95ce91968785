"""Options of an engine, and of one generation in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from deployments.engine.interception.model_traits import KNOWN, ModelTraits
from deployments.engine.loop.step_batcher import StepBatcher
from serve_app.domain.progress import Progress

if TYPE_CHECKING:
    from deployments.engine.drafting.draft import DraftPoint
    from deployments.engine.drafting.fork import Fork
    from deployments.engine.interception.chunked_decode import OnFrames

OnProgress = Callable[[Progress], None]
PipelineSetup = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an engine."""

    max_batch: int = 8
    """Maximum calls that share a forward; 1: each runs alone, bit for bit as without the engine."""
    max_generations: int = 0
    """Generations that run at a time, the others wait; 0: ``max_batch``."""
    threads: int = 0
    """torch's threads on a CPU; 0: torch's own choice."""
    limit_rows: bool = True
    """Merge only as many calls as gain throughput or as the demand needs, so that others end
    sooner; False: as many as fit."""
    verify_merges: bool = False
    """Compare the first merge of each signature with what its calls give alone, and do not merge
    signatures whose outputs differ."""
    compiles_first: bool = False
    """Compile what a recipe names before the first generation; False: while they run."""
    prompt_cache_bytes: int | None = None
    """Limit for cached text encoder outputs on the device; 0: no cache; None: 1 % of a GPU's
    memory, 64 MiB on a CPU."""
    prompt_cache_host_bytes: int = 2**30
    """On a GPU: limit for outputs in host memory that had no space on the device."""
    lora_bytes: int = 0
    """Limit for LoRAs on the device, in use or idle, with what is kept of them between steps;
    0: 5 % of the device's memory, at least 1 GiB."""
    step_batcher: StepBatcher = field(default_factory=StepBatcher)
    traits: ModelTraits = KNOWN
    """Model rules; ``KNOWN.with_families([…])`` adds yours to those that the engine knows."""


class EngineKeywords(TypedDict, total=False):
    """Fields of ``EngineOptions`` as keywords of ``Engine``."""

    max_batch: int
    max_generations: int
    threads: int
    limit_rows: bool
    verify_merges: bool
    compiles_first: bool
    prompt_cache_bytes: int | None
    prompt_cache_host_bytes: int
    lora_bytes: int
    step_batcher: StepBatcher
    traits: ModelTraits


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """Options of one generation, beside the pipeline's own arguments."""

    priority: int = 0
    """Higher runs first."""
    deadline_s: float | None = None
    """Seconds from now, including the time waiting for a place; at equal priority, the earliest
    deadline runs first. Nothing happens when it has passed."""
    keep_outputs_bytes: int = 0
    """Limit for denoiser outputs to keep for snapshots; with them, snapshots work for any
    pipeline."""
    on_frames: OnFrames | None = None
    """Only for a pipeline that decodes one video as its last action. If the autoencoder decodes
    frames one after another, ``on_frames`` gets them on the engine's thread as they are decoded,
    and the result has only a corner of each."""
    tiles: bool = False
    """Let the autoencoder decode in overlapping tiles, image by image, if it can: it takes a
    fraction of the memory, and the output differs a little."""
    step_cache: Mapping[str, Any] | None = None
    """Step cache of this generation's denoisers: its ``name`` and settings, as in the catalogue.
    Generations with another one, or none, are not affected and share no forward with it."""
    draft: DraftPoint | None = None
    """Stop there: the result is a ``Draft``, from which other generations go on."""
    fork: Fork | None = None
    """Go on from a draft: the steps before it are not computed. Prompt, guidance, LoRAs and seed
    may differ from the draft's; sizes, steps and the scheduler may not."""
    cache_scope: str = ""
    """Outputs of text encoders are reused, and computed once, within a scope only: the time of a
    generation tells nothing about prompts of another one. Empty: one scope for all that name none.
    """
    set_up: PipelineSetup | None = None
    """Called with this generation's own copy of the pipeline before the pipeline is called; FreeU,
    scales of IP-adapters, attention processors and the scheduler that it sets affect no other
    generation."""

    @property
    def part(self) -> str:
        """Part of the pipeline's call that is computed; empty for one that runs to its end."""
        if self.draft is not None:
            return "draft"
        return "preview" if self.fork is not None and self.fork.preview else ""


DEFAULT_OPTIONS = GenerationOptions()
