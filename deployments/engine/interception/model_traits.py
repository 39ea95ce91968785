"""Model rules: facts about some model classes that the engine cannot detect. Most need none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ChunkJoin(Enum):
    """Method of an autoencoder for joining decoded chunks into a video."""

    IN_LINE = "their frames, one after another"
    LAPPED_WITHOUT_FIRST = "tiles blended into each other; of all but one, the first frame goes"
    LAPPED_WITHOUT_LAST = "tiles blended into each other; of all but one, the last frame goes"


@dataclass(frozen=True, slots=True)
class ModelTrait:
    """Model rules of one class, a component or a pipeline."""

    # For a component's calls, used in merging.
    shared: frozenset[str] = frozenset()  # further arguments that hold positions
    repeated: frozenset[str] = frozenset()  # lists with one plain value per row
    ragged: frozenset[str] = frozenset()  # lists whose tensors may differ in length between rows
    pad: Mapping[str, int] = field(default_factory=dict)  # argument -> dimension to pad
    mask: str = ""  # argument [rows, length] that makes the model ignore the padding
    unused: frozenset[str] = frozenset()  # arguments that the model accepts and ignores
    merge_refusal: str = ""  # reason why its calls are never merged

    # For an autoencoder of video or audio; these do not apply to subclasses.
    chunked: bool = False  # it works in chunks, and changes nothing but itself in between
    chunk_join: ChunkJoin | None = None  # how a decoded video is joined from its chunks

    # For a component or a pipeline.
    ulysses_refusal: str = ""  # reason why it is not divided by tokens, against diffusers

    # For a pipeline.
    draws_globally: bool = False  # also draws from torch's global random state
    decodes_last: bool = False  # decoding the video is its last action; not for subclasses
    # Number of decoded frames at the start that the pipeline drops even so.
    dropped_frames: Callable[[Any], int] = lambda _: 0
    # Argument with images, of which there may be no more than latent frames.
    one_for_each_latent_frame: str = ""
    # Arguments of the call for which weights of this kind have no place.
    unplaced: Callable[[Any], frozenset[str]] = lambda _: frozenset[str]()


ModelFamily = Mapping[str, ModelTrait]
"""Model rules by class name, so that no model class needs to be imported."""

NOTHING = ModelTrait()


class ModelTraits:
    """Model rules of several families. Thread-safe: concurrent lookups find the same rules."""

    def __init__(self, by_name: ModelFamily) -> None:
        self._by_name = by_name
        self._found: dict[type, ModelTrait] = {}

    def with_families(self, families: Iterable[ModelFamily]) -> ModelTraits:
        """Add the rules of ``families``. For the same class, the later rule applies."""
        more = (item for family in families for item in family.items())
        return ModelTraits({**self._by_name, **dict(more)})

    def of(self, kind: type) -> ModelTrait:
        """Rules of a class, or of its nearest base class with rules."""
        if (known := self._found.get(kind)) is None:
            names = (base.__name__ for base in kind.__mro__)
            declared = (self._by_name[name] for name in names if name in self._by_name)
            known = self._found[kind] = next(declared, NOTHING)
        return known

    def exact(self, kind: type) -> ModelTrait:
        """Rules of a class itself, without those of its base classes."""
        return self._by_name.get(kind.__name__, NOTHING)


_REFERENCES = "reference_images"
_DECODES_LAST = ModelTrait(decodes_last=True)
_DRAWS_GLOBALLY = ModelTrait(draws_globally=True)
_CONTINUES = ModelTrait(merge_refusal="it goes on from the chunk before")
_IN_LINE = ModelTrait(chunked=True, chunk_join=ChunkJoin.IN_LINE)
_ROWS_MEET = ModelTrait(merge_refusal="its rows attend to one another")
_UNUSED_GENERATOR = ModelTrait(unused=frozenset({"generator"}))
_LTX_AUTOENCODER = ModelTrait(chunked=True, chunk_join=ChunkJoin.LAPPED_WITHOUT_LAST)
_LTX_TRANSFORMER = ModelTrait(
    ulysses_refusal="its text mask is for all heads, but each device has only some"
)


def _frames_of_the_image(pipeline: Any) -> int:
    """Frames at the start that show the input image. Older weights generate them with the video."""
    return 4 if pipeline.transformer.config.image_condition_type == "latent_concat" else 0


def _last_image(pipeline: Any) -> frozenset[str]:
    """The last frame, where the weights have no place for it. Those of 5B begin with a frame and no
    more. Those of 2.1 see images through CLIP, and only some have positions for two."""
    of = getattr(pipeline.transformer, "config", None)  # of 2.2, none may be left
    untrained = of is not None and of.image_dim is not None and of.pos_embed_seq_len is None
    takes = not (untrained or pipeline.config.expand_timesteps)
    return frozenset() if takes else frozenset({"last_image"})


BUILT_IN: ModelFamily = {
    # CogVideoX
    "CogVideoXPipeline": _DECODES_LAST,
    "CogVideoXImageToVideoPipeline": _DECODES_LAST,
    "CogVideoXVideoToVideoPipeline": _DECODES_LAST,
    "CogVideoXFunControlPipeline": _DECODES_LAST,
    "AutoencoderKLCogVideoX": _IN_LINE,
    "CogVideoXDecoder3D": _CONTINUES,
    "CogVideoXEncoder3D": _CONTINUES,
    # CogView
    "CogView4ControlPipeline": _DRAWS_GLOBALLY,
    # ControlNets that accept several kinds of images
    "ControlNetUnionModel": _ROWS_MEET,
    "MultiControlNetUnionModel": _ROWS_MEET,
    # FLUX.2
    "AutoencoderKLFlux2": _UNUSED_GENERATOR,
    "Flux2KleinKVPipeline": ModelTrait(
        ulysses_refusal="it caches keys and values of whole images; each device has only a part"
    ),
    # HiDream
    "HiDreamImageTransformer2DModel": ModelTrait(
        merge_refusal="one of its texts has a row in its second dimension"
    ),
    # HunyuanVideo
    "HunyuanVideoPipeline": _DECODES_LAST,
    "HunyuanSkyreelsImageToVideoPipeline": _DECODES_LAST,
    "HunyuanVideoImageToVideoPipeline": ModelTrait(
        decodes_last=True, dropped_frames=_frames_of_the_image
    ),
    "AutoencoderKLHunyuanVideo": ModelTrait(
        chunked=True, chunk_join=ChunkJoin.LAPPED_WITHOUT_FIRST
    ),
    "HunyuanVideoDecoder3D": _CONTINUES,
    "HunyuanVideoEncoder3D": _CONTINUES,
    "HunyuanVideoFramepackTransformer3DModel": ModelTrait(
        shared=frozenset(
            {
                "indices_latents",
                "indices_latents_clean",
                "indices_latents_history_2x",
                "indices_latents_history_4x",
            }
        )
    ),
    # LTX-Video and LTX-2
    "LTXPipeline": _DECODES_LAST,
    "LTXImageToVideoPipeline": _DECODES_LAST,
    "LTXConditionPipeline": _DECODES_LAST,
    "LTX2Pipeline": _DECODES_LAST,
    "LTX2ImageToVideoPipeline": _DECODES_LAST,
    "LTX2ConditionPipeline": _DECODES_LAST,
    "LTXVideoTransformer3DModel": _LTX_TRANSFORMER,
    "LTX2VideoTransformer3DModel": _LTX_TRANSFORMER,
    "AutoencoderKLLTXVideo": _LTX_AUTOENCODER,
    "AutoencoderKLLTX2Video": _LTX_AUTOENCODER,
    "LTXVideoDecoder3d": _CONTINUES,
    "LTXVideoEncoder3d": _CONTINUES,
    # Qwen-Image
    "QwenImageTransformer2DModel": ModelTrait(
        repeated=frozenset({"img_shapes", "txt_seq_lens"}),
        pad={"encoder_hidden_states": 1},
        mask="encoder_hidden_states_mask",
    ),
    "QwenImage21Transformer2DModel": ModelTrait(shared=frozenset({"img_mask"})),
    "QwenImageControlNetInpaintPipeline": _DRAWS_GLOBALLY,
    # Stable Audio, and ACE-Step, which uses its autoencoder
    "AutoencoderOobleck": ModelTrait(chunked=True),
    # Stable Diffusion 1, 2 and XL, and models that use their autoencoder (Flux, Z-Image)
    "AutoencoderKL": _UNUSED_GENERATOR,
    "ConsistencyDecoderVAE": ModelTrait(merge_refusal="it draws random numbers"),
    # Stable Diffusion 3
    "StableDiffusion3ControlNetPipeline": _DRAWS_GLOBALLY,
    "StableDiffusion3ControlNetInpaintingPipeline": _DRAWS_GLOBALLY,
    # Stable Video Diffusion
    "AutoencoderKLTemporalDecoder": ModelTrait(merge_refusal="its rows are frames of one video"),
    # Wan 2.1 and 2.2, and SkyReels V2, which is based on Wan
    "WanPipeline": _DECODES_LAST,
    "WanImageToVideoPipeline": ModelTrait(decodes_last=True, unplaced=_last_image),
    "WanVideoToVideoPipeline": _DECODES_LAST,
    "WanVACEPipeline": ModelTrait(decodes_last=True, one_for_each_latent_frame=_REFERENCES),
    "Wan22VaceModularPipeline": ModelTrait(one_for_each_latent_frame=_REFERENCES),
    "SkyReelsV2Pipeline": _DECODES_LAST,
    "SkyReelsV2ImageToVideoPipeline": _DECODES_LAST,
    "SkyReelsV2DiffusionForcingPipeline": _DECODES_LAST,
    "WanVACETransformer3DModel": ModelTrait(shared=frozenset({"control_hidden_states_scale"})),
    "AutoencoderKLWan": _IN_LINE,
    "WanDecoder3d": _CONTINUES,
    "WanEncoder3d": _CONTINUES,
    # Z-Image
    "ZImageTransformer2DModel": ModelTrait(ragged=frozenset({"cap_feats"})),
}
"""Model rules that the engine knows, by model family."""

KNOWN = ModelTraits(BUILT_IN)
