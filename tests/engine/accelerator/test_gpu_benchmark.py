"""The benchmark for a GPU: its sections run, are bounded, and go on where a run was ended."""

import json
import time

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.bench import Bench, Section
from benchmarks.gpu.device_sections import scaled_products
from benchmarks.real_sizes import cases

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize("case", cases(), ids=lambda each: each.name)
def test_solvers_work_on_the_host_wherever_the_weights_are(case):
    """``meta`` stands in for a GPU: reading a tensor there raises, as numpy does for a GPU's."""
    with Bench("meta", tiny=True).made_here():
        pipeline = case.make(True)
    more = {"mu": 1.0} if pipeline.scheduler.config.get("use_dynamic_shifting") else {}
    pipeline.scheduler.set_timesteps(4, device="cpu", **more)
    assert pipeline.scheduler.timesteps.device.type == "cpu"
    denoiser = getattr(pipeline, case.denoiser)
    assert {each.device.type for each in denoiser.parameters()} == {"meta"}
    assert torch.get_default_dtype() == torch.float32


def test_sections_run_on_a_cpu_and_are_not_run_twice(tmp_path, capsys):
    few = ["machine", "alone_and_merged", "scaled_products", "graphs", "load_safetensors"]
    tiny = ["--device", "cpu", "--tiny", "--out", str(tmp_path)]
    assert command.main([*tiny, "--only", *few]) == 0
    for name in few:
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["status"] == "done", content
        assert content["figures"]
    figures = json.loads((tmp_path / "alone_and_merged.json").read_text())["figures"]
    assert {"alone_same_bits": True} in figures
    capsys.readouterr()
    assert command.main([*tiny, "--only", *few, "out_of_memory"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("left out: it is done") == 5
    assert "left out: it says nothing on a CPU" in printed


@pytest.fixture
def bench():
    return Bench("cpu", tiny=True)


def test_a_section_is_cut_at_its_limit_and_its_figures_are_kept(tmp_path, bench):
    def endless(_):
        while True:
            yield {"figure": 1}

    results = command.Results(tmp_path)
    content = command.run_section(Section("endless", endless, 0.0), bench, results, float("inf"))
    assert content["status"] == "cut"
    assert results.read("endless")["figures"] == [{"figure": 1}]


def test_a_section_that_fails_keeps_its_figures_and_its_error(tmp_path, bench):
    def failing(_):
        yield {"figure": 1}
        raise ValueError("broken")

    results = command.Results(tmp_path)
    command.run_section(Section("failing", failing, 1.0), bench, results, float("inf"))
    content = results.read("failing")
    assert (content["status"], content["error"]) == ("failed", "ValueError: broken")
    assert content["figures"] == [{"figure": 1}]


def test_a_section_that_ended_the_process_is_tried_once_more(tmp_path, bench):
    results = command.Results(tmp_path)
    section, end = Section("deadly", scaled_products, 1.0), time.monotonic() + 1000
    results.write("deadly", {"status": "running", "tries": 1})
    assert command.reason_to_skip(section, bench, results, end) == ""
    results.write("deadly", {"status": "running", "tries": 2})
    assert "ended the process 2 times" in command.reason_to_skip(section, bench, results, end)


def test_what_is_missing_leaves_out_the_sections_that_need_it(tmp_path, bench):
    section = Section("far", scaled_products, 1.0, needs=("no_such_package",))
    results, end = command.Results(tmp_path), time.monotonic() + 1000
    assert command.reason_to_skip(section, bench, results, end) == "no_such_package is missing"


def test_the_sections_fit_into_two_runs():
    for part in (1, 2):
        minutes = sum(each.minutes for each in command.sections() if each.part == part)
        assert minutes <= 12  # limits; most sections end far earlier


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_at_once(capsys):
    assert command.main([]) == 2
    assert "sees no GPU. Use --device cpu --tiny." in capsys.readouterr().err
