"""Single-file checkpoints, in the layouts of the original repositories and of ComfyUI.

diffusers converts the names. Its converters get tensors that are not read yet, so a file is read as
the files of a pipeline's folder are: straight to where the model runs, GGUF dequantized on the way.
Only values that are computed from several, such as those of scaled FP8, are in host memory before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.loaders import single_file_model, single_file_utils
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from deployments.engine.reading.headers import StoredTensor, UnknownDtype, WeightFile
from deployments.engine.reading.unread import UnreadWeight, giving_values
from serve_app.domain.checkpoint import INSTEAD, NOTES, SCALES, check_checkpoint, check_format
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable

NAMED = 3  # tensors in a message
BEGIN = 8  # bytes that tell formats apart
_CONVERTER = "checkpoint_mapping_fn"
_LDM, _PREFIX = "input_blocks.", single_file_utils.LDM_UNET_KEY

Tensors = dict[str, Tensor]


def open_checkpoint(
    weights: Weights, index: Mapping[str, Any]
) -> Mapping[str, Mapping[str, StoredTensor]]:
    """Tensors by component and name in the checkpoint of ``weights``; ``index``: model_index.json.

    ``WeightsUnavailable`` says what the file is if it does not hold them in a form that is read.
    """
    file = Path(weights.checkpoint)
    opened = WeightFile(file)
    begin = bytearray(min(BEGIN, opened.bytes))
    opened.read(0, memoryview(begin))
    check_format(str(file), bytes(begin))
    try:
        tensors = opened.header().tensors
    except UnknownDtype as error:
        raise WeightsUnavailable(f"{error} {INSTEAD}") from error
    dtypes = {name: tensor.type_name for name, tensor in tensors.items()}
    names = check_checkpoint(str(file), dtypes, index, weights.components)
    return {component: {name: tensors[name] for name in names[component]} for component in names}


def read_checkpoint(
    weights: Weights,
    folder: Path,
    index: Mapping[str, Any],
    classes: Mapping[str, Any],
    dtypes: Mapping[str, torch.dtype],
) -> Mapping[str, torch.nn.Module]:
    """Modules of the checkpoint of ``weights``, by component, configured as in ``folder``.

    ``classes`` and ``dtypes``: by component. Raises ``WeightsUnavailable``.
    """
    modules: dict[str, torch.nn.Module] = {}
    for component, stored in open_checkpoint(weights, index).items():
        tensors: Tensors = {name: UnreadWeight(tensor) for name, tensor in stored.items()}
        kind, dtype = classes[component], dtypes.get(component, dtypes["default"])
        with giving_values(next(iter(stored.values())).file):
            try:
                module = _module(kind, _apply_scales(tensors, dtype), folder, component, dtype)
            except LookupError as error:  # a converter looks for a name
                why = f"it does not have the tensors of a {kind.__name__}"
                raise _unfit(weights, folder, component, why) from error
            except (ValueError, RuntimeError, TypeError, AttributeError) as error:
                raise _unfit(weights, folder, component, str(error)) from error
        if lacking := [name for name, parameter in module.named_parameters() if parameter.is_meta]:
            raise _unfit(weights, folder, component, _lacking(lacking))
        modules[component] = module
    return modules


def _module(
    kind: Any, tensors: Tensors, folder: Path, component: str, dtype: torch.dtype
) -> torch.nn.Module:
    if issubclass(kind, ModelMixin):
        return _convert_to_model(kind, tensors, folder, component, dtype)
    if single_file_utils.is_t5_in_single_file(tensors):  # diffusers does not tie its weights
        config = kind.config_class.from_pretrained(str(folder / component))
        own = single_file_utils.convert_sd3_t5_checkpoint_to_diffusers(tensors)
        options: dict[str, Any] = {"config": config, "state_dict": own, "dtype": dtype}
        module, report = kind.from_pretrained(None, output_loading_info=True, **options)
        if report["missing_keys"]:
            raise ValueError(_lacking([*report["missing_keys"]]))
        return module
    make: Any = single_file_utils.create_diffusers_clip_model_from_ldm
    where: dict[str, Any] = {"config": str(folder), "subfolder": component}
    return make(kind, tensors, torch_dtype=dtype, local_files_only=True, **where).eval()


def _convert_to_model(
    kind: Any, tensors: Tensors, folder: Path, component: str, dtype: torch.dtype
) -> torch.nn.Module:
    """Model of diffusers, made as its ``from_single_file`` does.

    That itself casts also the modules that the class keeps in float32, which ``from_pretrained``
    does not.
    """
    config = kind.load_config(str(folder), subfolder=component, local_files_only=True)
    with init_empty_weights():
        model = kind.from_config(config)
    if single_file_model._should_convert_state_dict_to_diffusers(model.state_dict(), tensors):  # noqa: SLF001
        if any(name.startswith(_LDM) for name in tensors):  # a UNet alone, as ComfyUI saves it
            tensors = {f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()}
        name = single_file_model._get_single_file_loadable_mapping_class(kind)  # noqa: SLF001
        convert: Any = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[str(name)][_CONVERTER]
        tensors = convert(config=config, checkpoint=tensors)
    load_model_dict_into_meta(
        model,
        cast("Any", tensors),
        dtype=dtype,
        keep_in_fp32_modules=kind._keep_in_fp32_modules,  # noqa: SLF001
        device_map={"": torch.device("cpu")},
    )
    return model.eval()


def _apply_scales(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """Weights, those with scales multiplied by them."""
    unscaled = {
        name: tensor for name, tensor in tensors.items() if not name.endswith((*SCALES, *NOTES))
    }
    for name, scale in tensors.items():
        end = next((suffix for suffix in SCALES if name.endswith(suffix)), None)
        if end is None:
            continue
        weight = f"{name.removesuffix(end)}.weight"
        values = unscaled[weight]
        if scale.numel() not in (1, len(values)):
            raise ValueError(f"{name} has {scale.numel()} scales for {len(values)} rows")
        factors = scale.float().reshape(-1, *(1,) * (values.dim() - 1))
        unscaled[weight] = (values.float() * factors).to(dtype)
    return unscaled


def _lacking(names: Sequence[str]) -> str:
    return f"it has no {', '.join(names[:NAMED])}"


def _unfit(weights: Weights, folder: Path, component: str, why: str) -> WeightsUnavailable:
    model = _model_of(Path(weights.checkpoint))
    return WeightsUnavailable(
        f"{weights.checkpoint} does not fit the {component} of {folder}: {why}. "
        + (f"Its tensors are named as those of {model}. " if model else "")
        + "Use it with the pipeline that it was made for."
    )


def _model_of(file: Path) -> str:
    """Repository of the model whose tensors have the names in ``file``; empty if none is known."""
    tensors = {
        name: UnreadWeight(tensor) for name, tensor in WeightFile(file).header().tensors.items()
    }
    try:
        kind = single_file_utils.infer_diffusers_model_type(tensors)
    except LookupError:
        return ""
    names, places = (
        single_file_utils.CHECKPOINT_KEY_NAMES,
        single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    )
    if kind == "v1" and names[kind] not in tensors:  # what diffusers says of any other file
        return ""
    return places.get(kind, {}).get("pretrained_model_name_or_path", "")
