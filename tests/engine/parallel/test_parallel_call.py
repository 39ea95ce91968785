"""Several devices compute a denoiser's calls together: processes with gloo, as there is no GPU."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from deployments.engine.engine import Engine  # noqa: E402
from deployments.engine.interception.isolation import ThreadState  # noqa: E402
from deployments.engine.parallel.group import ParallelGroup  # noqa: E402
from deployments.engine.parallel.parallel_call import (  # noqa: E402  # noqa: E402
    ParallelCall,
    ParallelModels,
    packed,
    spreadable,
)
from serve_app.domain.endpoint import Recipe  # noqa: E402
from serve_app.domain.errors import (  # noqa: E402
    LoraRefused,
    PipelineFailed,
    ReplicaDied,
    WeightsUnavailable,
)
from tests.engine.gate import merging_engine  # noqa: E402
from tests.engine.spreadable import image, made, video  # noqa: E402

ROOT = Path(__file__).parents[3]
PROMPTS = ("a red circle moving left", "a blue square moving right")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(400),
    # transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
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
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ParallelModels]:
    """With a second device that has ``NAMES``."""
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    with process("following", str(rendezvous), *NAMES) as follower:
        group = ParallelGroup(0, 2, rendezvous, "cpu")
        group.join()
        spread = ParallelModels(group, lambda: follower.poll() is None)
        yield spread
        spread.close()
        # The last pipeline was collected after its last call, so that was never reported.
        assert int(follower.communicate(timeout=60)[0]) < len(NAMES)


NAMES = ("demo", "flux", "qwen", "flux")


@pytest.fixture(scope="module")
def demo(spread: ParallelModels) -> Any:
    pipeline = made("demo")
    spread.add(NAMES.index("demo"), pipeline)
    return pipeline


def test_a_video_of_two_devices_is_that_of_one(demo):
    alone = made("demo")
    alone.set_progress_bar_config(disable=True)
    with Engine(demo, threads=1) as engine:
        videos = [engine.submit(**video(PROMPTS[0], seed=3)).result(60).frames for _ in "ab"]
    one = torch.as_tensor(alone(**video(PROMPTS[0], seed=3)).frames)
    assert one.std() > 0.05
    for two in videos:
        torch.testing.assert_close(torch.as_tensor(two), one, rtol=0, atol=1e-5)


def test_videos_of_several_requests_share_forwards_of_two_devices(demo):
    with merging_engine(demo, threads=1, verify_merges=True) as engine:
        alone = [engine.submit(**video(p, seed=4)).result(60).frames for p in PROMPTS]
        together = [engine.submit(**video(p, seed=4)) for p in PROMPTS]
        for generation, own in zip(together, alone, strict=True):
            torch.testing.assert_close(generation.result(60).frames, own, rtol=0, atol=1e-4)
        assert engine.counts()["merged_calls"] > 0


@pytest.mark.parametrize("name", ["flux", "qwen"])
def test_images_with_an_odd_number_of_tokens_are_those_of_one_device(spread, name):
    one = made(name)(**image("a red dog", seed=5)).images
    pipeline = made(name)
    spread.add(NAMES.index(name), pipeline)
    with Engine(pipeline, threads=1) as engine:
        two = engine.submit(**image("a red dog", seed=5)).result(60).images
    torch.testing.assert_close(two, one, rtol=0, atol=5e-5)


def test_a_call_that_all_devices_fail_at_is_its_own_failure_alone(demo):
    with Engine(demo, threads=1) as engine:
        small = video(PROMPTS[0], seed=6, frames=1) | {"width": 16, "height": 16}
        with pytest.raises(AssertionError, match="Cannot shard"):
            engine.submit(**small).result(60)
        assert engine.submit(**video(PROMPTS[0], seed=6, steps=1)).result(60).frames is not None


def test_a_follower_drops_the_denoisers_that_are_collected_here(spread, demo):
    with Engine(made("flux"), threads=1) as engine:
        again = made("flux")
        spread.add(3, again)
        engine.add("again", again)
        engine.submit(pipeline="again", **image("a red dog", seed=5)).result(60)
        engine.remove("again")
    del again, engine
    gc.collect()
    with Engine(demo, threads=1) as engine:
        engine.submit(**video(PROMPTS[0], seed=6, steps=1)).result(60)


def test_loras_are_refused_where_several_devices_compute(demo, tmp_path):
    from deployments.engine.lora.format import Lora  # noqa: PLC0415

    with Engine(demo, threads=1) as engine:
        loras = [Lora(tmp_path / "any.safetensors", 1.0)]
        with pytest.raises(LoraRefused, match="pool with one device"):
            engine.submit(loras=loras, **video(PROMPTS[0], seed=6))


def test_pipelines_that_cannot_be_divided_are_refused_with_the_reason(sdxl):
    with pytest.raises(WeightsUnavailable, match=r"no plan .* UNet2DConditionModel.*pool with one"):
        spreadable(sdxl)


def test_a_denoiser_that_waits_in_host_memory_cannot_be_spread(flux):
    recipe = Recipe(24, "bfloat16", "components", ("vae",))
    with pytest.raises(WeightsUnavailable, match="24 GB keeps its transformer in host memory"):
        spreadable(flux, recipe)
    assert list(spreadable(flux, Recipe(48, "bfloat16", "components", ("transformer",))))


def test_arguments_that_have_a_state_are_refused_before_anything_is_sent():
    class Cache:
        """What a model may remember in."""

    thread = ThreadState.of_this_thread()
    with pytest.raises(PipelineFailed, match="called with a Cache"):
        packed(ParallelCall(1, (0, "transformer"), (), {"deep": [{"cache": Cache()}]}, thread))


def stepping(leader: subprocess.Popen[str]) -> psutil.Process:
    """Its follower, once both compute."""
    assert leader.stdout is not None
    follower = psutil.Process(int(leader.stdout.readline().split()[1]))
    while leader.stdout.readline() != "step 2\n":
        assert leader.poll() is None
    return follower


def test_a_generation_whose_other_device_is_killed_fails_with_that_reason(tmp_path):
    with process("leading", str(tmp_path / "rendezvous")) as leader:
        stepping(leader).kill()
        said = leader.communicate(timeout=90)[0].splitlines()
    died = "ReplicaDied: One of the replica's 2 devices ended; the replica is being replaced."
    assert [line for line in said if "step" not in line] == ["lost", died, died]


def test_a_device_whose_connections_are_gone_has_ended_though_its_process_still_counts():
    class WithoutFollowers(ParallelGroup):
        """As after a kill: sockets are closed before the process can be waited for."""

        def divide(self, module: Any) -> None:
            pass

        def send(self, tensor: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("Connection closed by peer")

    lost = []
    group = WithoutFollowers(0, 2, Path("unused"), "cpu")
    pipeline = made("demo")
    ParallelModels(group, lambda: True, lambda: lost.append("lost")).add(0, pipeline)
    with Engine(pipeline, threads=1) as engine, pytest.raises(ReplicaDied, match="devices ended"):
        engine.submit(**video(PROMPTS[0], seed=1)).result(60)
    assert lost == ["lost"]


def test_a_follower_ends_by_itself_when_rank_0_is_killed(tmp_path):
    with process("leading", str(tmp_path / "rendezvous")) as leader:
        follower = stepping(leader)
        leader.kill()
        try:
            psutil.wait_procs([follower], timeout=90)
            assert not follower.is_running()
        finally:
            if follower.is_running():
                follower.kill()
