"""The benchmark for a GPU: its sections run, are bounded, and go on where a run was ended."""

import json
import sys
import threading
import time

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device_sections import scaled_products
from benchmarks.gpu.runner import Results, Watch, reason_to_skip, run_section
from benchmarks.gpu.section import MINUTES, Section, sections
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


@pytest.mark.long
@pytest.mark.timeout(1200)  # it computes for 30 s, and other tests go first
def test_sections_run_on_a_cpu_and_are_not_run_twice(tmp_path, capsys):
    few = ["machine", "whole_flux", "alone_and_merged", "scaled_products"]
    few += ["warm_to_hot", "whole_sdxl", "load_safetensors", "graphs"]
    tiny = ["--device", "cpu", "--tiny", "--here", "--out", str(tmp_path)]
    assert command.main([*tiny, "--only", *few]) == 0
    for name in few:
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert content["status"] == "done", content
        assert content["figures"]
    figures = json.loads((tmp_path / "alone_and_merged.json").read_text())["figures"]
    assert {"alone_same_bits": True} in figures
    made = json.loads((tmp_path / "whole_flux.json").read_text())["figures"][1:]
    assert [each["image"] for each in made] == ["dev", "schnell", "dev, FirstBlockCache"]
    assert not [each for each in made if "left_out" in each]
    ways = json.loads((tmp_path / "warm_to_hot.json").read_text())["figures"]
    assert [each["way"] for each in ways][1:] == ["warm to hot", "copies alone"]
    capsys.readouterr()
    assert command.main([*tiny, "--only", *few, "out_of_memory"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("left out: it is done") == 8
    assert "left out: it says nothing on a CPU" in printed


@pytest.fixture
def bench():
    return Bench("cpu", tiny=True)


def test_a_section_is_cut_at_its_limit_and_its_figures_are_kept(tmp_path, bench):
    def endless(_):
        while True:
            yield {"figure": 1}

    results = Results(tmp_path)
    content = run_section(Section("endless", endless, 0.0), bench, results, float("inf"))
    assert content["status"] == "cut"
    assert results.read("endless")["figures"] == [{"figure": 1}]


def test_a_section_that_fails_keeps_its_figures_and_its_error(tmp_path, bench):
    def failing(_):
        yield {"figure": 1}
        raise ValueError("broken")

    results = Results(tmp_path)
    run_section(Section("failing", failing, 1.0), bench, results, float("inf"))
    content = results.read("failing")
    assert (content["status"], content["error"]) == ("failed", "ValueError: broken")
    assert content["figures"] == [{"figure": 1}]


def test_a_section_that_ended_the_process_is_tried_once_more(tmp_path):
    results = Results(tmp_path)
    section, end = Section("deadly", scaled_products, 1.0), time.monotonic() + 1000
    results.write("deadly", {"status": "running", "tries": 1})
    assert reason_to_skip(section, results, end, on_gpu=False) == ""
    results.write("deadly", {"status": "running", "tries": 2})
    assert "ended the process 2 times" in reason_to_skip(section, results, end, on_gpu=False)


def test_what_is_missing_leaves_out_the_sections_that_need_it(tmp_path):
    section = Section("far", scaled_products, 1.0, needs=("no_such_package",))
    results, end = Results(tmp_path), time.monotonic() + 1000
    assert reason_to_skip(section, results, end, on_gpu=False) == "no_such_package is missing"


def test_the_sections_fit_into_two_runs_and_leave_time_to_start():
    for part in (1, 2):
        minutes = sum(each.minutes for each in sections() if each.part == part)
        assert minutes <= MINUTES - 0.5


def test_the_aims_are_measured_by_sections():
    """Seconds of whole images, and bytes a second from host memory to the device."""
    measured = {"whole_flux", "whole_flux_8_bits", "whole_sdxl", "warm_to_hot"}
    assert measured <= {each.name for each in sections()}


CHILD = """
import sys, time
from pathlib import Path
from benchmarks.gpu.runner import Results, run_here
from benchmarks.gpu.section import Section

class Bench:
    on_gpu = False
    def free(self): pass

def hangs(_):
    yield {"figure": 1}
    time.sleep(1000)

def fails(_):
    yield {"figure": 2}
    raise ValueError("broken")

def works(_):
    yield {"figure": 3}

limits = {"hangs": float(sys.argv[3]), "fails": 9.0, "works": 9.0}
chosen = [Section(name, globals()[name], minutes) for name, minutes in limits.items()]
sys.exit(run_here(chosen, Bench(), Results(Path(sys.argv[1])), float(sys.argv[2])))
"""


def watched(tmp_path, end, hangs_minutes):
    results = Results(tmp_path)
    chosen = [Section(name, scaled_products, 9.0) for name in ("hangs", "fails", "works")]

    def command_of(end):
        return [sys.executable, "-c", CHILD, str(tmp_path), repr(end), repr(hangs_minutes)]

    Watch(command_of, results, end, on_gpu=False).run(chosen)
    return {each.name: results.read(each.name) for each in chosen}


def test_a_figure_that_takes_too_long_is_ended_and_the_other_sections_run(tmp_path):
    made = watched(tmp_path, time.monotonic() + 1000, hangs_minutes=0.0)
    found = {name: (each["status"], each["figures"]) for name, each in made.items()}
    assert found["fails"] == ("failed", [{"figure": 2}])
    assert found["works"] == ("done", [{"figure": 3}])
    assert made["works"]["tries"] == made["fails"]["tries"] == 1
    # It is ended before its figure, or after it, by a machine's speed.
    assert found["hangs"][0] == "cut"


def test_a_run_ends_in_time_and_keeps_what_it_has(tmp_path):
    results, made = Results(tmp_path), dict[str, dict]()
    thread = threading.Thread(
        target=lambda: made.update(watched(tmp_path, time.monotonic() + 300, hangs_minutes=9.0))
    )
    thread.start()
    while not results.read("hangs").get("figures") and thread.is_alive():
        time.sleep(0.05)
    content = results.read("hangs")
    results.write("hangs", content | {"limit": 0.0})  # as if the time had come
    thread.join()
    assert made["hangs"]["status"] == "cut"
    assert made["hangs"]["figures"] == [{"figure": 1}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_at_once(capsys):
    assert command.main([]) == 2
    assert "sees no GPU. Use --device cpu --tiny." in capsys.readouterr().err
