"""Audio family: any diffusers pipeline that makes waveforms from text, or from text and audio, as
the endpoint's options say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from deployments.families.audio_io import (
    AudioFacts,
    AudioOptions,
    audio_form,
    audio_options,
    deliver_audio,
    duration_arguments,
    input_arguments,
    input_samples,
    requested_steps,
)
from deployments.families.base import GenerationCall, GenerationResult, Product
from deployments.families.call_mapping import (
    as_families_read,
    check_arguments,
    chosen_results,
    load_checked,
    mapped_arguments,
    mapping_of,
    parameters,
    pipeline_class,
    require_fields,
    view_to_call,
)
from deployments.families.image_io import seed_of
from deployments.families.object_inputs import object_arguments
from deployments.families.options import (
    AUDIO_TO_AUDIO,
    TEXT_TO_AUDIO,
    apply_options,
    required_files,
)
from deployments.families.warm_up import warm_up_input
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

TASKS = {TEXT_TO_AUDIO: frozenset[str](), AUDIO_TO_AUDIO: frozenset[str]()}

MAX_INPUT_S = 600.0
"""Input audio is cut to this length in seconds if the model has no limit of its own."""


class AudioFamily:
    """Family of audio endpoints. Options: ``audio_format``, ``dtype``, and those of
    ``CallMapping`` and ``apply_options``."""

    name = "audio"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        mapping = mapping_of(endpoint, TASKS)
        pipeline = load_checked(endpoint, mapping, device)
        called = pipeline_class(endpoint, mapping, pipeline)
        _check_audio(endpoint, mapping.task, audio_options(endpoint), called)
        _rate(endpoint, pipeline)
        return apply_options(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        options = audio_options(endpoint)
        most = _most_seconds(options, pipeline, _rate(endpoint, pipeline))
        usual = {options.prompt: "a bell", "seconds_start": 0.0, "seconds_total": min(most, 1.0)}
        return self.prepare(endpoint, warm_up_input(endpoint, **usual), pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        import torch  # noqa: PLC0415

        mapping, options = mapping_of(endpoint, TASKS), audio_options(endpoint)
        input = as_families_read(mapping, input)  # noqa: A001
        called = pipeline_class(endpoint, mapping, pipeline)
        # Endpoints share loaded weights, which may have been loaded with another one's options.
        check_arguments(endpoint, mapping, called)
        _check_audio(endpoint, mapping.task, options, called)
        require_fields(input, options.prompt, *required_files(endpoint))
        rate = _rate(endpoint, pipeline)
        most = _most_seconds(options, pipeline, rate)
        audio, given_s = {}, None
        if mapping.task == AUDIO_TO_AUDIO:
            samples = input_samples(input, pipeline, rate, min(most, MAX_INPUT_S))
            audio, given_s = input_arguments(options, samples, rate), samples.shape[-1] / rate
        form = audio_form(endpoint, options, input, rate, most, given_s)
        own_seed = seed_of(input, seed)
        arguments = {
            "prompt": input[options.prompt],
            "num_inference_steps": requested_steps(input),
            "generator": torch.Generator("cpu").manual_seed(own_seed),
            "output_type": "pt",
            **duration_arguments(options, input, form),
            **audio,
            **mapping.fixed,
            **mapped_arguments(mapping, input),
            **object_arguments(mapping.inputs, input, called),
            **chosen_results(called),
        }
        echoed = {name: input.get(name) for name in options.echo}
        facts = AudioFacts(form, own_seed, input[options.prompt], options.output, echoed)
        view = view_to_call(endpoint, mapping, input, pipeline, called)
        return GenerationCall(arguments, {"audio": facts}, view=view)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        generated: GenerationResult,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_audio(endpoint, call.output_facts["audio"], generated, tickets)


def _check_audio(endpoint: Endpoint, task: str, options: AudioOptions, called: type) -> None:
    if task == AUDIO_TO_AUDIO and options.input is None:
        raise Misconfigured(
            f"{endpoint.id}: `options.audio_format` in the catalogue needs `given`, the "
            f"argument of {called.__name__} that takes the input audio."
        )
    if unknown := sorted(options.arguments() - parameters(called)):
        raise Misconfigured(
            f"{endpoint.id}: {called.__name__} has no argument {', '.join(unknown)}. Change "
            "`options.audio_format` of the endpoint in the catalogue."
        )


def _rate(endpoint: Endpoint, pipeline: Any) -> int:
    """Sample rate of the generated audio, in Hz."""
    vocoder, vae = getattr(pipeline, "vocoder", None), getattr(pipeline, "vae", None)
    rates = (
        getattr(getattr(vocoder, "config", None), "sampling_rate", None),
        getattr(pipeline, "sample_rate", None),
        getattr(getattr(vae, "config", None), "sampling_rate", None),
    )
    for rate in rates:
        if isinstance(rate, int) and rate > 0:
            return rate
    raise Misconfigured(
        f"{endpoint.id}: neither the vocoder nor the autoencoder of {type(pipeline).__name__} "
        "states its sample rate. Use another model."
    )


def _most_seconds(options: AudioOptions, pipeline: Any, rate: int) -> float:
    """Maximum duration in seconds. A model that always makes its full length (``end``) has that."""
    if options.most_seconds is not None or options.end is None:
        return inf if options.most_seconds is None else options.most_seconds
    return int(pipeline.transformer.config.sample_size) * int(pipeline.vae.hop_length) / rate
