"""What merging has to be told about some modules. Data, by class; most need none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Declaration:
    shared: frozenset[str] = frozenset()  # further arguments that hold positions
    repeated: frozenset[str] = frozenset()  # lists with one plain value per row
    ragged: frozenset[str] = frozenset()  # lists whose tensors may have other lengths in each row
    pad: Mapping[str, int] = field(default_factory=dict)  # argument -> dimension of its length
    mask: str = ""  # the argument [rows, length] by which the model ignores what was padded
    unused: frozenset[str] = frozenset()  # arguments that it takes and does not look at
    solo: str = ""  # why its calls are never merged


NOTHING = Declaration()

DECLARATIONS: Mapping[str, Declaration] = {
    "ControlNetUnionModel": Declaration(solo="its rows attend to one another"),
    "MultiControlNetUnionModel": Declaration(solo="its rows attend to one another"),
    "HiDreamImageTransformer2DModel": Declaration(
        solo="one of its texts has a row in its second dimension"
    ),
    "WanVACETransformer3DModel": Declaration(shared=frozenset({"control_hidden_states_scale"})),
    "QwenImageTransformer2DModel": Declaration(
        repeated=frozenset({"img_shapes", "txt_seq_lens"}),
        pad={"encoder_hidden_states": 1},
        mask="encoder_hidden_states_mask",
    ),
    "AutoencoderKL": Declaration(unused=frozenset({"generator"})),
    "AutoencoderKLFlux2": Declaration(unused=frozenset({"generator"})),
    "AutoencoderKLTemporalDecoder": Declaration(solo="its rows are frames of one clip"),
    **dict.fromkeys(
        (
            *("WanDecoder3d", "WanEncoder3d", "CogVideoXDecoder3D", "CogVideoXEncoder3D"),
            *("HunyuanVideoDecoder3D", "HunyuanVideoEncoder3D"),
            *("LTXVideoDecoder3d", "LTXVideoEncoder3d"),
        ),
        Declaration(solo="it goes on from the chunk before"),
    ),
    "ConsistencyDecoderVAE": Declaration(solo="it draws random numbers"),
    "ZImageTransformer2DModel": Declaration(ragged=frozenset({"cap_feats"})),
}


def declared(kind: type) -> Declaration:
    """For a module's class."""
    for each in kind.__mro__:
        if (found := DECLARATIONS.get(each.__name__)) is not None:
            return found
    return NOTHING
