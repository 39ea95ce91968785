"""Adapters that belong to an endpoint, one for each denoiser: the turbo endpoints of Wan 2.2."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from deployments.engine.engine import Engine
from deployments.engine.lora.format import Lora
from deployments.families.options import own_adapters, prepared_call
from deployments.families.video import VideoFamily
from deployments.replica.resources import weights_name
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import LoraRefused, Misconfigured
from tests.deployments.videos import LARGE_I2V, LARGE_T2V, MAKE, entry, input_image
from tests.engine.gate import Gate, merging_engine
from tests.engine.loras import save_lora

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

TURBO_T2V, TURBO_I2V = f"{LARGE_T2V}/turbo", f"{LARGE_I2V}/turbo"
BASE = {TURBO_T2V: LARGE_T2V, TURBO_I2V: LARGE_I2V}
HIGH, LOW = 0.2, -0.15  # scales
STEPS = 4


@pytest.fixture(params=BASE)
def endpoint_id(request):
    return request.param


@pytest.fixture
def folder(tmp_path, endpoint_id):
    """Adapters in files that name the first denoiser both times, as published ones do."""
    pipeline = MAKE[BASE[endpoint_id]]()
    for seed in (1, 2, 3):
        save_lora(tmp_path, pipeline, seed)
    pipeline.save_pretrained(tmp_path / "weights", safe_serialization=True)
    return tmp_path


def turbo(endpoint_id, folder):
    adapters = [
        {"directory": str(folder), "file": f"{seed}.safetensors", "scale": scale, "denoiser": name}
        for seed, scale, name in ((1, HIGH, "transformer"), (2, LOW, "transformer_2"))
    ]
    video = {"num_frames": 17, "fps": 16}
    return entry(endpoint_id, adapters=adapters, video_format=video)


def make_input(listed, **more):
    body = {"prompt": "a red dog", "seed": 7, "aspect_ratio": "1:1", **more}
    checked, _ = listed.schema.validate(
        body | ({"image_url": "https://x.org/a"} if "image" in listed.endpoint.schema else {})
    )
    return checked | ({"image_url": input_image(64, 64)} if "image_url" in checked else {})


def adapters_of(endpoint):
    return [
        Lora(f"{adapter.directory}/{adapter.file}", adapter.scale, adapter.denoiser, is_own=True)
        for adapter in own_adapters(endpoint)
    ]


def by_diffusers(endpoint_id, folder, checked, listed, user=None):
    """What the plain pipeline makes with adapters and solver set by hand."""
    pipeline = MAKE[BASE[endpoint_id]]()
    names, scales = ["high", "low"], [HIGH, LOW]
    pipeline.load_lora_weights(folder, weight_name="1.safetensors", adapter_name="high")
    pipeline.load_lora_weights(
        folder, weight_name="2.safetensors", adapter_name="low", load_into_transformer_2=True
    )
    if user is not None:
        pipeline.load_lora_weights(folder, weight_name="3.safetensors", adapter_name="user")
        names, scales = [*names, "user"], [*scales, user]
    pipeline.set_adapters(names, scales)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, shift=5.0
    )
    call = VideoFamily().prepare(listed.endpoint, checked, pipeline, 1)
    assert call.arguments["num_inference_steps"] == STEPS
    assert call.arguments["guidance_scale"] == call.arguments["guidance_scale_2"] == 1.0
    return pipeline(**call.arguments).frames


@pytest.mark.long
def test_a_turbo_endpoint_gives_what_diffusers_gives_with_its_adapters(endpoint_id, folder):
    listed, family = turbo(endpoint_id, folder), VideoFamily()
    checked = make_input(listed)
    pipeline = MAKE[BASE[endpoint_id]]()
    usual = pipeline.scheduler
    loras, user = adapters_of(listed.endpoint), Lora(folder / "3.safetensors", 0.1)
    with merging_engine(max_batch=4, threads=1) as engine:
        engine.add("wan", pipeline)

        def submit(adapters):
            call = prepared_call(family, listed.endpoint, checked, pipeline, 1)
            return engine.submit(pipeline="wan", view=call.view, loras=adapters, **call.arguments)

        submit([*loras, user]).result(120)  # loads them, so that the generations meet
        gate = Gate(engine)
        submitted = [submit(stack) for stack in (loras, [*loras, user], [])]
        gate.open()
        videos = [generation.result(120).frames for generation in submitted]
        merged = engine.counts()["merged_calls"]
    expected = by_diffusers(endpoint_id, folder, checked, listed)
    stacked = by_diffusers(endpoint_id, folder, checked, listed, user=0.1)
    # Rounding, of products in another order, over all steps and the decoding.
    assert (videos[0] - expected).abs().max() <= 5e-4
    assert (videos[1] - stacked).abs().max() <= 5e-4
    assert (expected - stacked).abs().max() > 1e-3
    assert (videos[2] - expected).abs().max() > 1e-3
    assert merged >= 2 * STEPS  # the three share forwards, each row with its own adapters
    assert pipeline.scheduler is usual


@pytest.mark.long
async def test_base_and_turbo_share_one_set_of_weights_in_a_replica(make_rig, folder, endpoint_id):
    if endpoint_id == TURBO_I2V:
        pytest.skip("Its input image would be fetched; the way is the same.")
    listed = turbo(endpoint_id, folder)
    own = replace(listed.endpoint, weights=Weights(str(folder / "weights")))
    base = entry(LARGE_T2V)
    plain = replace(base.endpoint, weights=own.weights)
    assert weights_name(own, None) == weights_name(plain, None)
    more = {"num_frames": 17, "num_inference_steps": STEPS, "guidance_scale": 1.0}
    base_body = make_input(base, **more, guidance_scale_2=1.0, resolution="720p")
    rig = await make_rig(slots=3)
    offers = [
        ("first", plain, base_body),
        ("base", plain, base_body),
        ("turbo", own, make_input(listed)),
    ]
    for name, endpoint, body in offers:
        lease = replace(
            rig.lease(name, endpoint, **body),
            upload_tickets=(rig.storage.ticket(f"{name}/1/0", "video/mp4"),),
        )
        rig.port.offer(lease)
        outcome = await rig.outcome(lease.key)
        assert outcome.failure is None
        assert outcome.usage.steps == STEPS
    assert len(rig.resources.residency._loaded) == 1
    files = [rig.storage.objects[f"{name}/1/0"] for name in ("first", "base", "turbo")]
    assert files[0] == files[1] != files[2]


def test_own_adapters_do_not_count_against_the_limit_of_requests(folder, endpoint_id):
    listed = turbo(endpoint_id, folder)
    pipeline, checked = MAKE[BASE[endpoint_id]](), make_input(listed)
    own, user = adapters_of(listed.endpoint), Lora(folder / "3.safetensors")
    size = sum(tensor.numel() for tensor in load_file(folder / "3.safetensors").values()) * 4
    with Engine(threads=1, lora_bytes=size + 100) as engine:
        engine.add("wan", pipeline)

        def run(*loras):
            call = prepared_call(VideoFamily(), listed.endpoint, checked, pipeline, 1)
            generation = engine.submit(
                pipeline="wan", view=call.view, loras=loras, **call.arguments
            )
            return generation.result(120).frames

        assert torch.isfinite(run(*own, user)).all()
        with pytest.raises(LoraRefused, match="Use fewer"):
            run(user, replace(own[0], is_own=False))


async def test_an_adapter_that_does_not_fit_is_the_endpoint_s_error(make_rig, folder, endpoint_id):
    if endpoint_id == TURBO_I2V:
        pytest.skip("Its input image would be fetched; the way is the same.")
    save_file({"transformer.blocks.0.nothing.lora_A.weight": torch.ones(1, 4),
               "transformer.blocks.0.nothing.lora_B.weight": torch.ones(4, 1)},
              folder / "2.safetensors")  # fmt: skip
    listed = turbo(endpoint_id, folder)
    own = replace(listed.endpoint, weights=Weights(str(folder / "weights")))
    rig = await make_rig(slots=1)
    lease = rig.lease("turbo", own, **make_input(listed))
    rig.port.offer(lease)
    failure = (await rig.outcome(lease.key)).failure
    assert failure.code == Misconfigured.code
    assert f"{TURBO_T2V}: `options.adapters`: " in failure.message


@pytest.mark.parametrize(
    ("adapters", "says"),
    [
        ({"directory": "/x"}, "must be a list of mappings"),
        ([{"directory": "/x", "rank": 3}], "takes `hub` with `revision` or `directory`"),
        ([{"directory": "/x", "file": "a.pt"}], r"not a \*.safetensors file"),
    ],
)
def test_an_option_that_names_no_adapters_is_refused(adapters, says):
    endpoint = entry(TURBO_T2V, adapters=adapters).endpoint
    with pytest.raises(Misconfigured, match=f"{TURBO_T2V}: `options.adapters` .*{says}"):
        own_adapters(endpoint)


@pytest.mark.parametrize(
    ("fixed", "arguments", "applied"),
    [
        ({}, {"num_inference_steps": 4}, True),
        ({}, {"num_inference_steps": 8}, False),
        ({}, {"steps": 4}, True),  # as some of fal's audio models call it
        ({"num_inference_steps": 4}, {}, True),
        ({"num_inference_steps": 8}, {}, False),
        ({}, {}, False),
    ],
)
def test_an_adapter_for_some_steps_is_for_requests_with_so_many_however_they_say_it(
    fixed, arguments, applied
):
    adapters = [{"directory": "/loras", "file": "four.safetensors", "steps": 4}]
    endpoint = replace(
        entry(TURBO_T2V).endpoint,
        options={"adapters": adapters, **({"fixed": fixed} if fixed else {})},
    )
    (own,) = own_adapters(endpoint)
    assert own.is_for(endpoint, arguments) == applied
