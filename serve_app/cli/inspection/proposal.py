"""Entry of the catalogue for a repository that was inspected: family, schema and options by the
pipeline's class and arguments, or copied from a similar endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from serve_app.catalog.fal_types import fal_ids
from serve_app.cli.inspection.control_nets import ControlNets
from serve_app.cli.inspection.derivation import LENGTHS, SPAN, Derived, derive_inputs, stated_size
from serve_app.cli.inspection.fal_overlay import overlaid
from serve_app.cli.inspection.fal_parts import Parts, chooses
from serve_app.cli.inspection.pipeline_call import CONTROL_NET, FAMILY_OF_OUTPUT, PipelineCall
from serve_app.cli.inspection.repository import Repository
from serve_app.domain.errors import Misconfigured
from serve_app.domain.media.draft_refusals import REFUSALS
from serve_app.options.inputs import DECLARED, OPTION
from serve_app.options.results import RESULT, ResultType

Entry = dict[str, Any]
Config = Callable[[str], Mapping[str, Any]]
"""Settings of a component of the pipeline, by its name."""

FLUX, SDXL = "FluxPipeline", "StableDiffusionXLPipeline"
FAMILY_OF_CLASS = {FLUX: "flux", SDXL: "sdxl"}

DENOISERS = ("transformer", "unet")
FLOAT32_VAES = frozenset({"AutoencoderKLWan", "AutoencoderKLAllegro"})
"""Autoencoders that the authors load in float32. Some pipelines give them nothing else."""

ONE_DTYPE = frozenset(
    {
        *("BriaFiboPipeline", "BriaFiboEditPipeline", "JoyImageEditPipeline"),
        "MotifVideoImage2VideoPipeline",
    }
)
"""Classes that give such an autoencoder images or latents of their denoiser's type as they are."""

MOST_SECONDS = {"LongCatAudioDiTPipeline": 30}
"""Class → its longest audio, where it cuts what is asked for, and a file would end in silence."""

USUAL_VIDEO = {"width": 832, "height": 480}
NOT_COPIED = frozenset(
    {
        *("demo", "cpu", "weights", "display_name", "description", "licence", "readme"),
        *("examples", "packages"),
    }
)
"""Keys of another entry that describe its own weights."""


def like(source_id: str, source: Mapping[str, Any], call: PipelineCall) -> Entry:
    """Copy of the entry ``source``. ``Misconfigured``: it does not fit the pipeline."""
    entry = {key: value for key, value in source.items() if key not in NOT_COPIED}
    family = str(entry["family"])
    own = FAMILY_OF_CLASS.get(call.name, FAMILY_OF_OUTPUT[call.output])
    if family in {*FAMILY_OF_CLASS.values(), *FAMILY_OF_OUTPUT.values()} and family != own:
        raise Misconfigured(
            f"--like {source_id} is of the family {family}, which does not fit: {call.name} is of "
            f"the family {own}. Name an endpoint of that family, or leave out --like."
        )
    options = cast("Mapping[str, Any]", entry.get("options", {}))
    result = call.result
    if options.get(RESULT) != (None if result is None else result.option_value):
        raise Misconfigured(
            f"--like {source_id} does not fit: its `options.{RESULT}` is not what {call.name} "
            "makes. Leave out --like."
        )
    if "pipeline" not in options and own == family and own in FAMILY_OF_OUTPUT.values():
        mapped = {*options.get("arguments", {}).values(), *options.get("fixed", {})}
        if unknown := sorted(mapped - call.arguments.keys()):
            raise Misconfigured(
                f"--like {source_id} does not fit: {call.name} has no argument "
                f"{', '.join(unknown)}. Leave out --like."
            )
    return entry


def propose(
    call: PipelineCall,
    config: Config,
    endpoint_id: str = "",
    *,
    adapters: int = 0,
    nets: ControlNets | None = None,
    parts: Parts | None = None,
) -> Entry:
    """Entry by the class and its arguments; of an endpoint of fal's, with fal's fields.
    ``adapters``: number of IP-Adapters that it is loaded with. ``nets``: ControlNets that run
    together. ``parts``: those of the entry, which requests to fal's endpoints choose.
    ``Misconfigured``: no family can call it."""
    is_fals, parts = endpoint_id in fal_ids(), parts or {}
    if is_fals and nets is not None and not chooses(endpoint_id, CONTROL_NET, parts):
        raise Misconfigured(
            f"{endpoint_id} has fal's fields, which give one control image, and here "
            f"{nets.count} ControlNets run together. Serve them under an id of your own, such as "
            "house/x."
        )
    has_own = not is_fals and not adapters  # these families have no fields for adapters
    if has_own and call.name == FLUX:
        return _flux(config)
    if has_own and call.name == SDXL:
        own: Entry = {"family": "sdxl", "schema": "sdxl-text-to-image"}
        return own | {"options": {"task": "text-to-image", "dtype": "float16"}}
    frames = config("unet").get("num_frames")  # of Stable Video Diffusion
    derivation = derive_inputs(
        call,
        native=_native_size(config),
        frames=frames if isinstance(frames, int) else None,
        adapters=adapters,
        nets=nets,
    )
    defaults: Mapping[str, Any] = {}
    if is_fals:
        laid = overlaid(derivation, endpoint_id, call.output, call.name, parts)
        derivation, defaults = Derived(laid.inputs), laid.defaults
    task = _task(call, derivation)
    options = {"task": task, **_options(call, config, derivation)}
    family, category = FAMILY_OF_OUTPUT[call.output], _category(task, call)
    entry: Entry = {"family": family, "schema": DECLARED, "category": category, "options": options}
    return entry | ({"defaults": defaults} if defaults else {})


def _options(call: PipelineCall, config: Config, derivation: Derived) -> Entry:
    """Options of a derived entry beside its task."""
    family, result = FAMILY_OF_OUTPUT[call.output], call.result
    dtype = "float16" if family == "audio" else "bfloat16"
    if result is not None and result.files:
        # Between 0.5 and 1, bfloat16 has 128 levels. In float16, CPUs cannot resize.
        dtype = "float32"
    options: Entry = {"dtype": dtype, OPTION: derivation.inputs}
    if config("vae").get("_class_name") in FLOAT32_VAES and call.name not in ONE_DTYPE:
        options["dtypes"] = {"vae": "float32"}
    if call.name in REFUSALS:
        options["drafts"] = False
    if result is not None:
        options[RESULT] = result.option_value
    if family == "audio":
        options["audio_format"] = _audio_format(call, derivation)
    else:
        options["images"] = "pillow"
    if family == "video":
        options["video_format"] = _video_format(call, config)
    return options


def _flux(config: Config) -> Entry:
    guided = config("transformer").get("guidance_embeds", True)
    steps = 28 if guided else 4
    return {
        "family": "flux",
        "schema": "flux-text-to-image",
        "defaults": {"num_inference_steps": steps, "guidance_scale": 3.5},
        "options": {"task": "text-to-image", "dtype": "bfloat16"},
    }


def _category(task: str, call: PipelineCall) -> str:
    """fal's name for what the endpoint does."""
    is_mesh = call.result is not None and call.result.type is ResultType.MESH
    return f"{task.partition('-to-')[0]}-to-3d" if is_mesh else task


def _task(call: PipelineCall, derivation: Derived) -> str:
    """Task by the files that every input has."""
    types = {
        spec["type"]
        for name, spec in derivation.inputs.items()
        if spec.get("required") and not name.startswith("control_")  # else it is drawn anew
    }
    if call.output == "audio":
        return "audio-to-audio" if "audio" in types else "text-to-audio"
    if call.output == "video" and "video" in types:
        return "video-to-video"
    if types & {"mask", "image", "images"}:
        inpaints = "mask" in types and call.output == "image"
        return "inpainting" if inpaints else f"image-to-{call.output}"
    return f"text-to-{call.output}"


def _video_format(call: PipelineCall, config: Config) -> Entry:
    """Size of a video whose request and input file do not say it."""
    return stated_size(call, _native_size(config)) or USUAL_VIDEO


def _audio_format(call: PipelineCall, derivation: Derived) -> Entry:
    audio = [spec["argument"] for spec in derivation.inputs.values() if spec["type"] == "audio"]
    audio_input = {"input": audio[0]} if audio else {}
    length = next((name for name in LENGTHS if name in call.arguments), None)
    if length is not None:
        most = MOST_SECONDS.get(call.name)
        return {"length": length, **({"most_seconds": most} if most else {}), **audio_input}
    if call.arguments.keys() >= set(SPAN):
        return dict(zip(("start", "end"), SPAN, strict=True))
    raise Misconfigured(
        f"{call.name} takes no duration by a known name ({', '.join(LENGTHS)}). Write the "
        "entry in a catalogue file, with `options.audio_format`."
    )


def _native_size(config: Config) -> int | None:
    """Side in pixels of the images that the denoiser was made for; None if it does not say."""
    blocks = config("vae").get("block_out_channels")
    scale = 2 ** (len(cast("list[int]", blocks)) - 1) if isinstance(blocks, list) else 8
    for name in DENOISERS:
        size = config(name).get("sample_size")
        if isinstance(size, int):
            return size * scale
    return None


def complete_entry(entry: Entry, repository: Repository, **chosen: str | None) -> Entry:
    """Entry with the weights, the licence and the keys that the operator has ``chosen``."""
    facts = {"licence": repository.licence} | {k: v for k, v in chosen.items() if v is not None}
    return {
        **entry,
        "weights": dict(repository.weights),
        **{key: value for key, value in facts.items() if value},
    }
