"""The benchmark for a GPU can make its pipelines there."""

from argparse import Namespace

import pytest

from benchmarks.gpu import Bench
from benchmarks.real_sizes import cases

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize("case", cases(), ids=lambda each: each.name)
def test_its_solvers_work_on_the_host_wherever_the_weights_are(case):
    """``meta`` stands in for a GPU: reading a tensor there raises, as numpy does for a GPU's."""
    bench = Bench(case, Namespace(device="meta", tiny=True), lambda **_: None)
    scheduler = bench._pipeline.scheduler
    more = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(4, device="cpu", **more)
    assert scheduler.timesteps.device.type == "cpu"
    assert {each.device.type for each in bench.denoiser.parameters()} == {"meta"}
