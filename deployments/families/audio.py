"""The family for sounds: any pipeline of diffusers that makes waveforms from text, or from text and
a sound, as the options of an endpoint say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from deployments.amendments import amended
from deployments.call_mapping import check, mapping_of, parameters
from deployments.called_pipeline import called_by, loaded, view_for
from deployments.family import GenerationCall, Made, Product
from deployments.first_input import first_input
from deployments.mapped_fields import mapped, need
from deployments.picture_output import seed_of
from deployments.sound_form import SoundOptions, asked_steps, sound_form, sound_options, span
from deployments.sound_input import given_as, given_samples
from deployments.sound_output import SoundFacts, deliver_sound
from deployments.task import AUDIO_TO_AUDIO, TEXT_TO_AUDIO, begins_with
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

TASKS = {TEXT_TO_AUDIO: frozenset[str](), AUDIO_TO_AUDIO: frozenset[str]()}

MOST_GIVEN_S = 600.0
"""What a given sound has beyond them is left out, where the model has no limit of its own."""


class AudioFamily:
    """Options of its endpoints: those of ``CallMapping``, ``sound``, ``dtype``, and those of
    ``amendments``."""

    name = "audio"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        mapping = mapping_of(endpoint, TASKS)
        pipeline = loaded(endpoint, mapping, device)
        called = called_by(endpoint, mapping, pipeline)
        _check_sound(endpoint, mapping.task, sound_options(endpoint), called)
        _rate(endpoint, pipeline)
        return amended(pipeline, endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        options = sound_options(endpoint)
        most = _most_seconds(options, pipeline, _rate(endpoint, pipeline))
        usual = {options.prompt: "a bell", "seconds_start": 0.0, "seconds_total": min(most, 1.0)}
        return self.prepare(endpoint, first_input(endpoint, **usual), pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        import torch  # noqa: PLC0415

        mapping, options = mapping_of(endpoint, TASKS), sound_options(endpoint)
        called = called_by(endpoint, mapping, pipeline)
        # Endpoints share loaded weights, and another one's options may have loaded these.
        check(endpoint, mapping, called)
        _check_sound(endpoint, mapping.task, options, called)
        need(input, options.prompt, *begins_with(mapping.task))
        rate = _rate(endpoint, pipeline)
        most = _most_seconds(options, pipeline, rate)
        sound, given_s = {}, None
        if mapping.task == AUDIO_TO_AUDIO:
            given = given_samples(input, pipeline, rate, min(most, MOST_GIVEN_S))
            sound, given_s = given_as(options, given, rate), given.shape[-1] / rate
        form = sound_form(endpoint, options, input, rate, most, given_s)
        own_seed = seed_of(input, seed)
        arguments = {
            "prompt": input[options.prompt],
            "num_inference_steps": asked_steps(input),
            "generator": torch.Generator("cpu").manual_seed(own_seed),
            "output_type": "pt",
            **span(options, input, form),
            **sound,
            **mapping.fixed,
            **mapped(mapping, input),
        }
        echoed = {name: input.get(name) for name in options.echo}
        facts = SoundFacts(form, own_seed, input[options.prompt], options.output, echoed)
        view = None if mapping.pipeline is None else view_for(endpoint, pipeline, called)
        return GenerationCall(arguments, {"sound": facts}, view=view)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_sound(endpoint, call.facts["sound"], made, tickets)


def _check_sound(endpoint: Endpoint, task: str, options: SoundOptions, called: type) -> None:
    if task == AUDIO_TO_AUDIO and options.given is None:
        raise Misconfigured(
            f"{endpoint.id}: `options.sound` in the catalogue needs `given`, the argument of "
            f"{called.__name__} that takes the given sound."
        )
    if unknown := sorted(options.arguments() - parameters(called)):
        raise Misconfigured(
            f"{endpoint.id}: {called.__name__} takes no {', '.join(unknown)}. Change "
            "`options.sound` of the endpoint in the catalogue."
        )


def _rate(endpoint: Endpoint, pipeline: Any) -> int:
    """Samples a second of what it makes."""
    vocoder, vae = getattr(pipeline, "vocoder", None), getattr(pipeline, "vae", None)
    told = (
        getattr(getattr(vocoder, "config", None), "sampling_rate", None),
        getattr(pipeline, "sample_rate", None),
        getattr(getattr(vae, "config", None), "sampling_rate", None),
    )
    for rate in told:
        if isinstance(rate, int) and rate > 0:
            return rate
    raise Misconfigured(
        f"{endpoint.id}: neither the vocoder nor the autoencoder of {type(pipeline).__name__} says "
        "how many samples a second it makes."
    )


def _most_seconds(options: SoundOptions, pipeline: Any, rate: int) -> float:
    """How long a sound its model can make: where it always makes all of it (``end``), that."""
    if options.most_seconds is not None or options.end is None:
        return inf if options.most_seconds is None else options.most_seconds
    return int(pipeline.transformer.config.sample_size) * int(pipeline.vae.hop_length) / rate
