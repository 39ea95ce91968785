"""Mapping from an endpoint's input to the arguments of a pipeline, as its options say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deployments.families.image_io import own_dtypes, strength_of
from deployments.families.object_inputs import part_values, unknown_attributes
from deployments.families.options import IMAGE_TO_VIDEO, VIDEO_TO_VIDEO, task_of
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.options.inputs import (
    ADAPTER_SCALE,
    SETTING,
    STEPS,
    Inputs,
    InputType,
    declared_inputs,
)
from serve_app.options.mistakes import validate
from serve_app.options.results import DeclaredResult, declared_result

PIXELS, PILLOW = "pixels", "pillow"

STANDARD = frozenset({"prompt", "num_inference_steps", "generator", "output_type"})
"""Arguments that every pipeline receives."""

OPTIONAL_BY_TASK = {
    IMAGE_TO_VIDEO: frozenset({"prompt"}),
    VIDEO_TO_VIDEO: frozenset({"prompt"}),
}
"""Task → standard arguments that a pipeline may lack: Stable Video Diffusion has no prompt."""

Tasks = Mapping[str, frozenset[str]]
"""Task → arguments that receive the content of input files."""


class CallOptions(BaseModel):
    """Options of an endpoint about the call of its pipeline."""

    model_config = ConfigDict(frozen=True, strict=True)

    arguments: Mapping[str, str] = {}  # field of the input → argument
    fixed: Mapping[str, Any] = {}  # argument → constant value
    unless_empty: Sequence[str] = ()  # fields that are left out when they are ""
    images: Literal["pixels", "pillow"] = PIXELS  # form of input images: a tensor, or of Pillow
    video: str = "video"  # the argument that takes the frames of an input video
    pipeline: str | None = None  # class of diffusers to call over the loaded components
    multiple: int | None = None  # pixels; None: derived from the pipeline's components
    native_size: int | None = None  # pixels


class CallMapping(CallOptions):
    """Checked options of an endpoint. Built by ``mapping_of``."""

    task: str
    inputs: Inputs = {}  # that the entry declares
    result: DeclaredResult | None = None  # in place of images
    file_arguments: frozenset[str] = frozenset()  # that come from files, or lists of objects
    settings: Mapping[str, str] = {}  # field → setting of a component

    def required_arguments(self) -> frozenset[str]:
        """The arguments that the pipeline must accept."""
        mapped = self.file_arguments | {*self.arguments.values()} | self.fixed.keys()
        return mapped if self.inputs else STANDARD | mapped


def mapping_of(endpoint: Endpoint, tasks: Tasks) -> CallMapping:
    """Read and check the options. ``tasks`` are those that the family supports. Raises
    ``Misconfigured``, which names the endpoint and the invalid option."""
    task = task_of(endpoint, tuple(tasks))
    inputs = declared_inputs(endpoint)
    set_options = {name: value for name, value in endpoint.options.items() if value is not None}
    try:
        options = validate(CallOptions, set_options, "options")
    except ValueError as error:
        raise Misconfigured(f"{endpoint.id}: {error} (in the catalogue).") from error
    files = (options.video if kind == "video" else kind for kind in tasks[task])
    declared = (
        spec.argument
        for spec in inputs.values()
        if spec.is_file or (spec.fields and not spec.parts)
    )
    passed = {name: spec.argument for name, spec in inputs.items() if spec.is_passed}
    settings = {name: argument for name, argument in passed.items() if SETTING in argument}
    arguments = {name: argument for name, argument in passed.items() if name not in settings}
    fields: dict[str, Any] = {**dict(options), "arguments": {**arguments, **options.arguments}}
    mapping = CallMapping(
        task=task,
        inputs=inputs,
        result=declared_result(endpoint),
        file_arguments=frozenset(declared if inputs else files),
        settings=settings,
        **fields,
    )
    from_input = STANDARD - {STEPS} | {*mapping.arguments.values()}
    if twice := mapping.fixed.keys() & from_input:
        raise Misconfigured(
            f"{endpoint.id}: {', '.join(sorted(twice))} cannot be under `options.fixed`: the value "
            "comes from the input. Remove it there."
        )
    return mapping


def as_families_read(mapping: CallMapping, input: Mapping[str, Any]) -> Mapping[str, Any]:
    """``input`` under the usual names of what families translate, with the number of steps if the
    endpoint fixes it. Objects that choose parts become the fields with a value for each part."""
    input = {**input, **part_values(mapping.inputs, input)}  # noqa: A001
    steps = {STEPS: mapping.fixed[STEPS]} if STEPS in mapping.fixed else {}
    named = {
        usual: input[name]
        for name, spec in mapping.inputs.items()
        if (usual := spec.usual_name) is not None and input.get(name) is not None
    }
    return {**input, **named, **steps}


def check_arguments(endpoint: Endpoint, mapping: CallMapping, called: type) -> None:
    """Raise ``Misconfigured`` if the pipeline class ``called`` lacks an argument of the mapping."""
    takes = parameters(called)
    passed = mapping.required_arguments() - OPTIONAL_BY_TASK.get(mapping.task, frozenset())
    if unknown := sorted([*(passed - takes), *unknown_attributes(mapping.inputs, called)]):
        raise Misconfigured(
            f"{endpoint.id}: {called.__name__} has no argument {', '.join(unknown)}. Its arguments "
            f"are {', '.join(sorted(takes))}. Change `options.arguments`, `options.fixed` or "
            "`options.pipeline` of the endpoint in the catalogue."
        )


def parameters(called: type) -> frozenset[str]:
    """Names of the arguments of a call of the pipeline."""
    from deployments.engine.interception.modular import block_inputs, is_modular  # noqa: PLC0415

    if is_modular(called):
        return block_inputs(called)
    known = inspect.signature(called.__call__).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(parameter.name for parameter in known if parameter.kind in named) - {"self"}


def chosen_results(called: type) -> dict[str, Any]:
    """Argument that names the results of a modular pipeline, which else returns all its states."""
    from deployments.engine.interception.modular import block_results, is_modular  # noqa: PLC0415

    return {"output": [*block_results(called)]} if is_modular(called) else {}


# Pipeline class of the mapping.


def load_checked(endpoint: Endpoint, mapping: CallMapping, device: str) -> Any:
    """Load the pipeline for the endpoint's weights, on the CPU; bfloat16 if the device is a GPU,
    unless its options say otherwise. Raises ``Misconfigured`` if the mapping cannot call it."""
    from deployments.engine.loading.loader import load_pipeline  # noqa: PLC0415

    pipeline = load_pipeline(endpoint.weights, dtype=own_dtypes(endpoint, device, "bfloat16"))
    check_arguments(endpoint, mapping, pipeline_class(endpoint, mapping, pipeline))
    return pipeline


def pipeline_class(endpoint: Endpoint, mapping: CallMapping, pipeline: Any) -> type:
    """Class of the pipeline to call. ``Misconfigured`` if diffusers has no class of that name."""
    if mapping.pipeline is None:
        return type(pipeline)
    import diffusers  # noqa: PLC0415

    from deployments.engine.pipelines import pipeline_class as named_class  # noqa: PLC0415

    kind = named_class(mapping.pipeline)
    if kind is None:
        raise Misconfigured(
            f"{endpoint.id}: diffusers {diffusers.__version__} has no pipeline "
            f"{mapping.pipeline!r} (`options.pipeline` in the catalogue)."
        )
    return kind


def view_to_call(
    endpoint: Endpoint, mapping: CallMapping, input: Mapping[str, Any], pipeline: Any, called: type
) -> Any:
    """Pipeline to call in place of the loaded one: of another class, or with other settings of its
    components. None: the loaded one itself."""
    settings = {
        place: input[name]
        for name, place in mapping.settings.items()
        if input.get(name) is not None and place != ADAPTER_SCALE
    }
    if mapping.pipeline is None and not settings:
        return None
    from deployments.engine.interception.modular import guider_with  # noqa: PLC0415

    view = pipeline_view(endpoint, pipeline, called)
    for place, value in settings.items():
        name, _, setting = place.partition(SETTING)
        guider = getattr(view, name, None)
        if setting not in getattr(guider, "config", {}):
            raise Misconfigured(
                f"{endpoint.id}: {called.__name__} has no {place} to set. Remove it from "
                "`options.inputs` of the endpoint in the catalogue."
            )
        setattr(view, name, guider_with(guider, **{setting: value}))
    return view


def adapter_set_up(mapping: CallMapping, input: Mapping[str, Any]) -> Any:
    """``set_up`` of a generation with the scales of the images for IP-Adapters, if the input has
    any; None: nothing is to be set."""
    if not adapter_arguments(mapping, input):
        return None
    fields = (name for name, place in mapping.settings.items() if place == ADAPTER_SCALE)
    scale = input.get(next(fields, ""))
    from deployments.engine.loading.ip_adapter import with_scale  # noqa: PLC0415

    return with_scale(1.0 if scale is None else scale)


def adapter_arguments(mapping: CallMapping, input: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with images for IP-Adapters: one image for each of several, or all those of one."""
    images: dict[str, list[Any]] = {}
    is_one = True
    for name, spec in mapping.inputs.items():
        if spec.argument == ADAPTER_SCALE:
            is_one = spec.type is InputType.NUMBER
        if spec.is_adapters and (value := input.get(name)):
            images.setdefault(spec.argument, []).extend(
                value if isinstance(value, list) else [value]
            )
    if not is_one:
        return {**images}
    return {n: several[0] if len(several) == 1 else [several] for n, several in images.items()}


def pipeline_view(endpoint: Endpoint, pipeline: Any, called: type) -> Any:
    """Pipeline of class ``called`` over the same weights. ``Misconfigured`` if impossible."""
    from deployments.engine.interception.pipeline import view_of  # noqa: PLC0415

    try:
        return view_of(pipeline, called)
    except TypeError as error:
        raise Misconfigured(
            f"{endpoint.id}: {called.__name__} (`options.pipeline` in the catalogue) cannot be "
            f"built from the components of {type(pipeline).__name__}: {error}"
        ) from error


# Arguments from input fields.


def require_fields(input: Mapping[str, Any], *names: str) -> None:
    """Raise ``InvalidInput`` for missing fields. The schema ``open`` does not check them."""
    for name in names:
        if input.get(name) is None:
            raise InvalidInput.of_field(name, "Field required", "missing")


def mapped_arguments(mapping: CallMapping, input: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from input fields. Fields without a value keep the pipeline's default."""
    strength = input.get("strength") if "strength" in mapping.arguments else None
    if strength is not None and input.get(STEPS) is not None:
        strength_of(input, int(input["num_inference_steps"]))
    tuples = {name for name, spec in mapping.inputs.items() if spec.is_tuple}
    return {
        argument: tuple(input[name]) if name in tuples else input[name]
        for name, argument in mapping.arguments.items()
        if input.get(name) is not None and not (input[name] == "" and name in mapping.unless_empty)
    }
