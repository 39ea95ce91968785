"""Audio endpoints: from fal's body to the pipeline's call, over tiny pipelines of their weights'
classes, and from the samples to the files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.media.audio import limit_peak
from deployments.engine.media.scratch import Scratch
from deployments.families.audio import AudioFamily
from deployments.families.base import GenerationResult, Product
from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Cancelled, InvalidInput, Misconfigured
from tests.deployments.served import CATALOG, Served
from tests.engine.conformance import zoo
from tests.engine.gate import Gate
from tests.engine.media.test_audio import read

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

STABLE, SONG = "fal-ai/stable-audio", "fal-ai/ace-step"
RATE = 400  # sample rate of the tiny pipelines, in Hz
MAX_S = 0.16  # longest audio of the tiny Stable Audio
BODIES: dict[str, dict[str, Any]] = {
    STABLE: {"prompt": "a low tone", "seconds_total": 0.15, "steps": 3, "seed": 7},
    SONG: {
        "tags": "rock, loud",
        "lyrics": "[inst]",
        "duration": 5,
        "number_of_steps": 2,
        "seed": 7,
    },
}
CLASSES = {STABLE: "StableAudioPipeline", SONG: "AceStepPipeline"}
EACH = pytest.mark.parametrize("endpoint_id", BODIES)


@pytest.fixture(scope="module")
def engine():
    with Engine(device="cpu", threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Any]:
    return {endpoint: zoo.cases()[title].build() for endpoint, title in CLASSES.items()}


def entry(endpoint_id: str, **options: Any) -> CatalogEntry:
    listed = CATALOG.get(endpoint_id)
    changed = {**listed.endpoint.options, "dtype": "float32", **options}
    return replace(listed, endpoint=replace(listed.endpoint, options=changed))


@pytest.fixture
def serve(engine, pipelines):
    return lambda endpoint_id, **options: Served(
        entry(endpoint_id, **options), pipelines[endpoint_id], engine
    )


def tickets(media_type: str = "audio/wav", count: int = 2) -> tuple[UploadTicket, ...]:
    types = (media_type, "image/png")[:count]
    return tuple(
        UploadTicket(f"key-{number}", f"http://storage/{number}", kind, 10**8)
        for number, kind in enumerate(types)
    )


def deliver(served: Served, call: Any, result: Any, scratch: Scratch, **more: Any) -> Product:
    generated = GenerationResult(result, 1.5, 3, scratch)
    return served.family.deliver(served.entry.endpoint, call, generated, tickets(**more))


def plain(served: Served, **arguments: Any) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(7)
    return served.pipeline(output_type="pt", generator=generator, **arguments).audios


def test_stable_audio_makes_what_diffusers_makes(serve):
    served = serve(STABLE)
    call = served.call({**BODIES[STABLE], "seconds_start": 0.01})
    expected = plain(
        served,
        prompt="a low tone",
        num_inference_steps=3,
        audio_start_in_s=0.01,
        audio_end_in_s=0.16,
        guidance_scale=7.0,
    )
    assert torch.equal(served.run(call).audios, expected)


def test_an_endpoint_may_fix_the_number_of_steps(serve):
    served = serve(STABLE, fixed={"num_inference_steps": 2})
    arguments = {"prompt": "a low tone", "seconds_total": 0.15}
    call = served.family.prepare(served.entry.endpoint, arguments, served.pipeline, 7)
    assert call.arguments["num_inference_steps"] == 2


def test_a_song_is_what_diffusers_makes_of_its_tags_and_lyrics(serve):
    served = serve(SONG)
    expected = plain(
        served,
        prompt="rock, loud",
        lyrics="[inst]",
        audio_duration=5.0,
        num_inference_steps=2,
        guidance_scale=15.0,
    )
    audio = served.run(served.call(BODIES[SONG])).audios
    assert torch.equal(audio, expected)
    sung = served.call({**BODIES[SONG], "lyrics": "we sing of nothing"})
    assert not torch.equal(served.run(sung).audios, expected)


@EACH
def test_the_file_has_the_samples_and_lasts_as_long_as_was_asked(serve, endpoint_id):
    served, scratch = serve(endpoint_id), Scratch()
    call = served.call(BODIES[endpoint_id])
    result = served.run(call)
    product = deliver(served, call, result, scratch)
    seconds = BODIES[endpoint_id].get("seconds_total", 5)
    samples, rate = read(product.files[0].body)
    assert rate == RATE
    assert samples.shape[1] == round(seconds * RATE)
    assert np.abs(samples - limit_peak(result.audios[0], samples.shape[1])).max() <= 1 / 32_768
    assert product.units == pytest.approx(seconds)
    scratch.close()
    assert not product.files[0].body.exists()


@EACH
def test_the_output_is_as_its_schema_says(serve, endpoint_id):
    served, scratch = serve(endpoint_id), Scratch()
    call = served.call({**BODIES[endpoint_id], "output_format": "flac"})
    product = deliver(served, call, served.run(call), scratch, media_type="audio/flac")
    schema = served.entry.schema.output_schema()
    assert product.output.keys() <= schema["properties"].keys()
    assert set(schema["required"]) <= product.output.keys()
    field = "audio_file" if endpoint_id == STABLE else "audio"
    audio = product.output[field]
    assert (audio["artifact"], audio["content_type"]) == ("key-0", "audio/flac")
    assert audio["file_size"] == product.files[0].size > 0
    assert (audio["sample_rate"], product.output["seed"]) == (RATE, 7)
    assert product.output["waveform"]["artifact"] == "key-1"
    assert product.files[1].body.startswith(b"\x89PNG")
    scratch.close()


def test_a_song_says_its_tags_and_lyrics(serve):
    served, scratch = serve(SONG), Scratch()
    call = served.call(BODIES[SONG])
    output = deliver(served, call, served.run(call), scratch).output
    assert (output["tags"], output["lyrics"]) == ("rock, loud", "[inst]")
    scratch.close()


def test_more_than_the_model_can_make_is_refused_by_the_name_of_the_field(serve):
    with pytest.raises(InvalidInput) as caught:
        serve(STABLE).call({**BODIES[STABLE], "seconds_total": 0.15, "seconds_start": 0.02})
    (problem,) = caught.value.problems
    assert problem.loc == ("body", "seconds_total")
    assert problem.type == "audio_duration_too_long"
    assert "0.14 seconds from second 0.02 on" in problem.message


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seconds_total": 48}, "seconds_total"),
        ({"seconds_total": 0}, "seconds_total"),
        ({"seconds_start": -1}, "seconds_start"),
        ({"steps": 0}, "steps"),
        ({"output_format": "aiff"}, "output_format"),
    ],
)
def test_a_field_out_of_its_bounds_is_refused_by_name(serve, changed, field):
    with pytest.raises(InvalidInput) as caught:
        serve(STABLE).call({**BODIES[STABLE], **changed})
    assert caught.value.problems[0].loc == ("body", field)


def test_an_audio_file_that_is_no_longer_wanted_is_not_written_to_its_end(serve):
    served, scratch = serve(SONG), Scratch()
    call = served.call(BODIES[SONG])
    result = served.run(call)
    seen: list[int] = []

    def on_made(done: int, _: int) -> None:
        seen.append(done)
        scratch.close()

    scratch.on_made = on_made
    with scratch.busy(), pytest.raises(Cancelled):
        deliver(served, call, result, scratch)
    assert seen == [RATE]


def test_it_goes_on_from_a_snapshot_bit_for_bit_though_nothing_calls_back(serve, engine):
    """Stable Audio's pipeline has no ``callback_on_step_end``."""
    served = serve(STABLE)
    body = {**BODIES[STABLE], "steps": 6}
    expected = served.run(served.call(body)).audios
    snapshots: list[Any] = []
    box: list[Any] = []

    def ask(progress: Any) -> None:
        if progress.step == 3 and not snapshots:
            snapshots.append(box[0].request_snapshot())

    gate = Gate(engine)
    first = served.call(body)
    box.append(engine.submit(pipeline=STABLE, on_progress=ask, **first.arguments))
    gate.open()
    assert torch.equal(box[0].result(60).audios, expected)
    state = snapshots[0].result(60)
    assert state.step == 3
    again = engine.submit(pipeline=STABLE, snapshot=state.to_bytes(), **served.call(body).arguments)
    assert torch.equal(again.result(60).audios, expected)


def test_other_pipelines_are_served_by_an_entry_alone(engine):
    pipeline = zoo.cases()["AudioLDM2Pipeline"].build()
    listed = CATALOG.get(STABLE)
    options = {
        "task": "text-to-audio",
        "dtype": "float32",
        "audio_format": {"length": "audio_length_in_s", "most_seconds": 30},
    }
    endpoint = replace(listed.endpoint, id="house/audioldm2", options=options)
    served = Served(replace(listed, endpoint=endpoint), pipeline, engine)
    rate = pipeline.vocoder.config.sampling_rate
    call = served.call({**BODIES[STABLE], "seconds_total": 0.5, "steps": 2})
    assert call.arguments["audio_length_in_s"] == 0.5
    scratch = Scratch()
    samples, got = read(deliver(served, call, served.run(call), scratch).files[0].body)
    assert (got, samples.shape) == (rate, (1, round(0.5 * rate)))
    scratch.close()
    with pytest.raises(InvalidInput, match="at most 30"):
        served.call({**BODIES[STABLE], "seconds_total": 40, "steps": 2})


@pytest.mark.parametrize(
    ("audio", "why"),
    [
        ({"length": "audio_duration"}, "has no argument audio_duration"),
        ({}, "either `length` or `end`"),
        ({"length": "a", "end": "b"}, "either `length` or `end`"),
        ({"ends": "audio_end_in_s"}, "has no key ends"),
        ("audio_end_in_s", "must be a mapping"),
    ],
)
def test_an_option_that_does_not_fit_says_what_does(serve, audio, why):
    with pytest.raises(Misconfigured, match=why):
        serve(STABLE, audio_format=audio).call(BODIES[STABLE])


def test_tickets_of_another_type_are_reported(serve):
    served, scratch = serve(STABLE), Scratch()
    call = served.call(BODIES[STABLE])
    with pytest.raises(Misconfigured, match=r"audio/wav.*image/png"):
        AudioFamily().deliver(
            served.entry.endpoint,
            call,
            GenerationResult(None, 1, 1, scratch),
            tickets("image/png", 1),
        )
