"""Several devices compute a denoiser's calls together: processes with gloo, as there is no GPU."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.torch import save_file  # noqa: E402

from deployments.engine.engine import Engine  # noqa: E402
from deployments.engine.lora.format import Lora  # noqa: E402
from deployments.engine.merging.compile import compile_regions  # noqa: E402
from deployments.engine.parallel.group import ParallelGroup  # noqa: E402
from deployments.engine.parallel.messages import can_be_sent  # noqa: E402
from deployments.engine.parallel.parallel_call import AHEAD, ParallelModels, spreadable  # noqa: E402
from serve_app.domain.endpoint import Recipe  # noqa: E402
from serve_app.domain.errors import (  # noqa: E402
    Cancelled,
    OutOfMemory,
    ReplicaDied,
    WeightsUnavailable,
)
from tests.engine import following  # noqa: E402
from tests.engine.calls import call  # noqa: E402
from tests.engine.gate import Gate, merging_engine  # noqa: E402
from tests.engine.loras import FLUX_LAYERS, save_lora  # noqa: E402
from tests.engine.spreadable import MAKERS, image, make_pipeline, video  # noqa: E402
from tests.engine.with_loras import plain_with, relative, together  # noqa: E402

ROOT = Path(__file__).parents[3]
PROMPTS = ("a red circle moving left", "a blue square moving right")

pytestmark = [
    pytest.mark.long,
    pytest.mark.engine,
    pytest.mark.timeout(900),
    # transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    # peft, of the second LoRA that diffusers itself loads
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]


@contextmanager
def process(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", f"tests.engine.{module}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.fixture(scope="module", autouse=True)
def on_loopback() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        yield


@pytest.fixture(scope="module")
def at_the_end() -> list[Callable[[dict[str, int]], bool]]:
    """What tests expect of the second device's counts when it ends."""
    return []


@pytest.fixture(scope="module")
def spread(
    tmp_path_factory: pytest.TempPathFactory, at_the_end: list[Callable[[dict[str, int]], bool]]
) -> Iterator[ParallelModels]:
    """With a second device that has ``NAMES``."""
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    with process("following", str(rendezvous), *NAMES) as follower:
        group = ParallelGroup(0, 2, rendezvous, "cpu")
        group.join()
        spread = ParallelModels(group, lambda: follower.poll() is None)
        yield spread
        spread.close()
        ended = json.loads(follower.communicate(timeout=300)[0])
        assert all(expected(ended) for expected in at_the_end), ended


NAMES = (
    *("demo", "flux", "qwen", "flux", "sdxl", "compiled"),
    *("mixes", "guided", "small", "refuses", "guiding"),
)


@pytest.fixture(scope="module")
def add_pipeline(spread: ParallelModels) -> Callable[[str], Any]:
    """Pipelines by name, whose denoisers two devices compute."""

    @cache
    def add(name: str) -> Any:
        pipeline = make_pipeline(name)
        spread.add(NAMES.index(name), pipeline)
        return pipeline

    return add


@pytest.fixture(scope="module")
def demo(add_pipeline: Callable[[str], Any]) -> Any:
    return add_pipeline("demo")


@pytest.fixture
def ways(spread: ParallelModels) -> Counter[str]:
    """Calls by how they were divided, in this test."""
    spread.ways.clear()
    return spread.ways


def test_a_video_of_two_devices_is_that_of_one(demo):
    alone = make_pipeline("demo")
    alone.set_progress_bar_config(disable=True)
    with Engine(demo, threads=1) as engine:
        videos = [engine.submit(**video(PROMPTS[0], seed=3)).result(300).frames for _ in "ab"]
    single = torch.as_tensor(alone(**video(PROMPTS[0], seed=3)).frames)
    assert single.std() > 0.05
    for two in videos:
        torch.testing.assert_close(torch.as_tensor(two), single, rtol=0, atol=1e-5)


def test_videos_of_several_requests_are_divided_by_rows(demo, ways):
    with merging_engine(demo, threads=1, verify_merges=True) as engine:
        alone = [engine.submit(**video(p, seed=4)).result(300).frames for p in PROMPTS]
        assert ways == {"tokens": 4, AHEAD: 6}  # four steps of two calls; the first step is learned
        gate = Gate(engine)
        together = [engine.submit(**video(p, seed=4)) for p in PROMPTS]
        gate.open()
        for generation, own in zip(together, alone, strict=True):
            torch.testing.assert_close(generation.result(300).frames, own, rtol=0, atol=1e-4)
        assert engine.counts()["merged_calls"] > 0
    assert ways["rows"] > 0


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_images_with_an_odd_number_of_tokens_are_those_of_one_device(add_pipeline, name):
    single = make_pipeline(name)(**image("a red dog", seed=5)).images
    with Engine(add_pipeline(name), threads=1) as engine:
        two = engine.submit(**image("a red dog", seed=5)).result(300).images
    torch.testing.assert_close(two, single, rtol=0, atol=5e-5)


def test_the_rows_with_and_without_the_prompt_are_computed_by_two_devices(add_pipeline, ways):
    """Of a model for which diffusers has no plan."""
    single = make_pipeline("sdxl")(**image("a red dog", seed=5)).images
    with Engine(add_pipeline("sdxl"), threads=1) as engine:
        two = engine.submit(**image("a red dog", seed=5)).result(300).images
        assert ways == {"rows": 4}
        engine.count_parallel_calls(ways)
        engine.submit(guidance_scale=1.0, **image("a red dog", seed=5)).result(300)
        assert engine.counts()["parallel_calls"] == {"rows": 4, "one row": 4}
    torch.testing.assert_close(two, single, rtol=0, atol=5e-5)


def test_a_call_with_too_few_tokens_for_all_devices_is_computed_by_one(demo, ways):
    small = video(PROMPTS[0], seed=6, frames=1) | {"width": 16, "height": 16}
    alone = make_pipeline("demo")
    alone.set_progress_bar_config(disable=True)
    single = torch.as_tensor(alone(**small).frames)
    with Engine(demo, threads=1) as engine:
        small = video(PROMPTS[0], seed=6, frames=1) | {"width": 16, "height": 16}
        two = engine.submit(**small).result(300).frames
        torch.testing.assert_close(torch.as_tensor(two), single, rtol=0, atol=1e-5)
        assert ways["tokens"] == 1  # then it is known
        assert engine.submit(**video(PROMPTS[0], seed=6, steps=1)).result(300).frames is not None


@pytest.mark.parametrize(
    ("otherwise", "ahead"),
    [("", 4), ("other values", 3), ("written into", 3), ("the latents", 2), ("it is missing", 2)],
)
def test_the_second_call_of_a_step_is_computed_with_the_first_where_it_is_as_expected(
    add_pipeline, ways, otherwise, ahead
):
    """By the other device, and bit for bit."""
    start = torch.tensor([[0.5, 0.25]])
    single = make_pipeline("guiding")(start, otherwise)
    with Engine(add_pipeline("guiding"), threads=1) as engine:
        two = engine.submit(start=start, otherwise=otherwise).result(300)
        assert engine.counts()["not_merged"]["computed ahead"] == ahead
    assert torch.equal(two, single)
    assert ways[AHEAD] >= ahead


def test_a_guided_video_is_computed_with_two_calls_at_a_time(demo, ways):
    with Engine(demo, threads=1) as engine:
        two = engine.submit(**video(PROMPTS[0], seed=3)).result(300).frames
        counts = engine.counts()
    assert ways == {"tokens": 2, AHEAD: 3}
    assert counts["not_merged"]["computed ahead"] == 3
    with Engine(make_pipeline("demo"), threads=1) as engine:
        single = engine.submit(**video(PROMPTS[0], seed=3)).result(300).frames
    torch.testing.assert_close(two, single, rtol=0, atol=1e-5)


ODD = {"width": 48, "height": 48}
"""A size with an odd number of tokens."""

ROWS = {"start": torch.tensor([[0.5], [1.5]])}


@pytest.mark.parametrize("name", ["mixes", "guided"])
def test_a_model_whose_rows_meet_is_not_divided_by_rows_and_gives_what_it_gave(
    add_pipeline, ways, name
):
    single = make_pipeline(name)(**ROWS)
    with Engine(add_pipeline(name), threads=1) as engine:
        torch.testing.assert_close(engine.submit(**ROWS).result(300), single)
    assert ways["rows"] == 1  # then it is known
    assert sum(ways.values()) == 3


def test_what_one_device_has_no_memory_for_is_computed_by_two(add_pipeline, ways):
    """The denoiser has memory for two rows."""
    four = torch.arange(4.0)[:, None]
    single = torch.cat([make_pipeline("small")(start=half) for half in four.split(2)])
    with Engine(add_pipeline("small"), threads=1) as engine:
        torch.testing.assert_close(engine.submit(start=four).result(300), single)
        with pytest.raises(OutOfMemory):
            engine.submit(start=torch.ones(6, 1)).result(300)
        torch.testing.assert_close(engine.submit(start=four).result(300), single)
    assert ways.keys() == {"rows"}


@pytest.mark.parametrize("place", [0, 1], ids=["here", "on the other device"])
def test_an_error_of_one_device_is_the_failure_of_its_call_alone(add_pipeline, place):
    bad = torch.ones(2, 1)
    bad[place] = -9.0
    with Engine(add_pipeline("refuses"), threads=1) as engine:
        with pytest.raises(ArithmeticError, match="negative"):
            engine.submit(start=bad).result(300)
        good = engine.submit(**ROWS).result(300)
    torch.testing.assert_close(good, make_pipeline("refuses")(**ROWS))


def test_a_cancelled_generation_leaves_the_devices_in_step(add_pipeline):
    going = Event()
    single = make_pipeline("sdxl")(**image("a red dog", seed=5)).images
    with Engine(add_pipeline("sdxl"), threads=1) as engine:
        cancelled = engine.submit(
            on_progress=lambda _: going.set(), **image("a dog", seed=1, steps=900)
        )
        assert going.wait(300)
        cancelled.cancel()  # in the middle of a call of both
        with pytest.raises(Cancelled):
            cancelled.result(300)
        two = engine.submit(**image("a red dog", seed=5)).result(300).images
    torch.testing.assert_close(two, single, rtol=0, atol=5e-5)


@pytest.fixture(scope="module")
def compiled_engine(spread: ParallelModels, add_pipeline: Callable[[str], Any]) -> Iterator[Engine]:
    """With a pipeline ``it`` whose blocks are compiled on both devices."""
    ways, pipeline = spread.ways.copy(), add_pipeline("compiled")
    compile_regions(pipeline, following.counting)
    with merging_engine(threads=1, verify_merges=True) as engine:
        engine.precompile(pipeline, following.rehearsal)
        assert following.runs["plain"] > 0
        assert spread.ways == ways  # the rehearsal was this device's own
        engine.add_placed("it", pipeline)
        yield engine


def test_compiled_blocks_run_on_both_devices_and_as_written_where_tokens_are_divided(
    compiled_engine, ways, at_the_end
):
    single = make_pipeline("compiled")(**image("a red dog", seed=5)).images
    before = following.runs["plain"]
    two = compiled_engine.submit(pipeline="it", **image("a red dog", seed=5)).result(300).images
    torch.testing.assert_close(two, single, rtol=0, atol=5e-5)
    assert ways == {"tokens": 4}
    assert following.runs["plain"] == before
    gate = Gate(compiled_engine)
    both = [compiled_engine.submit(pipeline="it", **image("a red dog", seed=5)) for _ in "ab"]
    gate.open()
    for generation in both:
        torch.testing.assert_close(generation.result(300).images, single, rtol=0, atol=1e-4)
    assert ways["rows"] > 0
    assert following.runs["plain"] > before
    at_the_end.append(lambda ended: ended["plain"] > 0)


def test_compiled_blocks_have_loras_on_both_devices(compiled_engine, ways, at_the_end, tmp_path):
    # Of one kind of blocks, and outside of blocks: each kind takes seconds to compile.
    layers = [layer for layer in FLUX_LAYERS if not layer.startswith("single")]
    file = save_lora(tmp_path, make_pipeline("flux"), 1, 4, layers)
    lora_lists = ([Lora(file)], [Lora(file, -0.5)])  # two rows, one for each device
    with Engine(make_pipeline("flux"), threads=1) as engine:
        expected = [
            engine.submit(loras=its, **call(seed=seed, **ODD)).result(300).images
            for seed, its in enumerate(lora_lists)
        ]

    def calls() -> list[dict[str, Any]]:
        return [
            {"pipeline": "it", "loras": its, **call(seed=seed, **ODD)}
            for seed, its in enumerate(lora_lists)
        ]

    def check_alone() -> None:
        """As written, whatever code there is."""
        before = following.runs.copy()
        images = compiled_engine.submit(**calls()[0]).result(300).images
        assert relative(images, expected[0]) <= 1e-5
        assert following.runs == before

    check_alone()
    assert ways.keys() == {"tokens"}
    together(compiled_engine, calls(), 300)  # the first forward by rows asks for code
    compiled_engine.finish_compiling()
    before = following.runs["loras"]
    for images, its in zip(together(compiled_engine, calls(), 300), expected, strict=True):
        assert relative(images, its) <= 1e-5
    assert following.runs["loras"] > before
    check_alone()
    assert ways.keys() == {"tokens", "rows"}
    at_the_end.append(lambda ended: ended.get("loras", 0) > 0)


def test_a_follower_drops_the_denoisers_that_are_collected_here(spread, demo, at_the_end):
    with Engine(make_pipeline("flux"), threads=1) as engine:
        again = make_pipeline("flux")
        spread.add(3, again)
        engine.add("again", again)
        engine.submit(pipeline="again", **image("a red dog", seed=5)).result(300)
        engine.remove("again")
    del again, engine
    gc.collect()
    with Engine(demo, threads=1) as engine:
        engine.submit(**video(PROMPTS[0], seed=6, steps=1)).result(300)
    at_the_end.append(lambda ended: ended["denoisers"] < len(NAMES))


@pytest.mark.parametrize("name", ["flux", "sdxl"])
def test_loras_are_applied_on_all_devices(add_pipeline, ways, name, tmp_path):
    """Alone, mixed in one forward with others and with none, several at once, and gone again."""
    loras = [
        save_lora(tmp_path, make_pipeline(name), seed, rank) for seed, rank in ((1, 4), (2, 2))
    ]
    lora_lists = [
        [Lora(loras[0])],
        [],
        [Lora(loras[1], 0.5)],
        [Lora(loras[0], -0.7), Lora(loras[1])],
    ]
    wishes = [{"seed": seed, "steps": 2, **ODD} for seed in range(len(lora_lists))]
    expected = [
        plain_with(MAKERS[name], lora_list, **wish)
        for lora_list, wish in zip(lora_lists, wishes, strict=True)
    ]
    with merging_engine(add_pipeline(name), threads=1, verify_merges=True) as engine:
        single = engine.submit(loras=lora_lists[0], **call(**wishes[0])).result(300).images
        assert relative(single, expected[0]) <= 1e-5
        for file in loras:  # loaded before, so that the generations meet
            engine.submit(loras=[Lora(file)], **call(steps=1, **ODD)).result(300)
        calls = [
            {**call(**wish), "loras": lora_list}
            for lora_list, wish in zip(lora_lists, wishes, strict=True)
        ]
        for images, its in zip(together(engine, calls, 300), expected, strict=True):
            assert relative(images, its) <= 1e-5
        assert engine.counts()["merged_calls"] >= len(lora_lists)
        plain = engine.submit(**call(**wishes[1])).result(300).images
        assert relative(plain, expected[1]) <= 1e-5
    assert ways["rows"] > 0
    assert name != "flux" or ways.keys() == {"rows", "tokens"}  # it was not too small
    assert relative(expected[0], plain_with(MAKERS[name], [], **wishes[0])) > 1e-3


def test_a_lokr_of_which_a_layer_has_some_rows_is_applied_on_all_devices(add_pipeline, tmp_path):
    torch.manual_seed(3)
    width = make_pipeline("flux").transformer.inner_dim
    parts = {"lokr_w1": torch.randn(4, 4), "lokr_w2": torch.randn(3 * width // 4, width // 4)}
    layer, file = "lora_unet_double_blocks_0_img_attn_qkv", tmp_path / "lokr.safetensors"
    save_file({f"{layer}.{name}": tensor for name, tensor in parts.items()}, file)
    with Engine(make_pipeline("flux"), threads=1) as engine:
        expected = engine.submit(loras=[Lora(file)], **call(steps=2, **ODD)).result(300).images
        plain = engine.submit(**call(steps=2, **ODD)).result(300).images
    with Engine(add_pipeline("flux"), threads=1) as engine:
        two = engine.submit(loras=[Lora(file)], **call(steps=2, **ODD)).result(300).images
    assert relative(two, expected) <= 1e-5
    assert relative(plain, expected) > 1e-4


def test_a_denoiser_that_waits_in_host_memory_cannot_be_spread(flux):
    recipe = Recipe(24, "bfloat16", "components", ("vae",))
    with pytest.raises(WeightsUnavailable, match="24 GB keeps its transformer in host memory"):
        spreadable(flux, recipe)
    assert list(spreadable(flux, Recipe(48, "bfloat16", "components", ("transformer",))))


def test_arguments_that_have_a_state_stay_on_one_device():
    class Cache:
        """What a model may remember in."""

    assert not can_be_sent({"deep": [{"cache": Cache()}]})
    assert can_be_sent(((torch.ones(2), 3), {"deep": [{"flag": True, "none": None}]}))


def stepping(leader: subprocess.Popen[str]) -> psutil.Process:
    """Its follower, once both compute."""
    assert leader.stdout is not None
    follower = psutil.Process(int(leader.stdout.readline().split()[1]))
    while leader.stdout.readline() != "step 2\n":
        assert leader.poll() is None
    return follower


def test_a_generation_whose_other_device_is_killed_fails_with_that_reason(tmp_path):
    """While both compute tokens of a call."""
    with process("leading", str(tmp_path / "rendezvous"), "flux") as leader:
        stepping(leader).kill()
        lines = leader.communicate(timeout=300)[0].splitlines()
    died = "ReplicaDied: One of the replica's 2 devices ended; the replica is being replaced."
    assert [line for line in lines if "step" not in line] == ["lost", died, died]


@pytest.mark.parametrize("lost_at", [None, (0, 1), (1, 0)])
def test_a_device_whose_connections_are_gone_has_ended_though_its_process_still_counts(lost_at):
    """Before it is told of a call, gets its rows, or returns them."""

    class WithoutFollowers(ParallelGroup):
        """As after a kill: sockets are closed before the process can be waited for."""

        def send(self, tensor: torch.Tensor, between: Any = None) -> torch.Tensor:
            if between == lost_at:
                raise RuntimeError("Connection closed by peer")
            return tensor

    lost = []
    group = WithoutFollowers(0, 2, Path("unused"), "cpu")
    pipeline = make_pipeline("sdxl")
    ParallelModels(group, lambda: True, lambda: lost.append("lost")).add(0, pipeline)
    with Engine(pipeline, threads=1) as engine, pytest.raises(ReplicaDied, match="devices ended"):
        engine.submit(**image(PROMPTS[0], seed=1)).result(300)
    assert lost == ["lost"]


def test_a_follower_ends_by_itself_when_rank_0_is_killed(tmp_path):
    with process("leading", str(tmp_path / "rendezvous")) as leader:
        follower = stepping(leader)
        leader.kill()
        try:
            psutil.wait_procs([follower], timeout=300)
            assert not follower.is_running()
        finally:
            if follower.is_running():
                follower.kill()
