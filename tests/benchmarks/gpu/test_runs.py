"""The benchmark for a GPU: its sections run, are bounded, and go on where a run was ended."""

import json
import sys
import threading
import time

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device_sections import machine
from benchmarks.gpu.results import FILE, LOG, OtherMachine, Results
from benchmarks.gpu.runner import Run, Watch, run_section
from benchmarks.gpu.section import MINUTES, START_MINUTES, Section, sections
from benchmarks.gpu.table import LONGEST
from benchmarks.real_sizes import cases

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_solvers_work_on_the_host_wherever_the_weights_are(case):
    """``meta`` stands in for a GPU: reading a tensor there raises, as numpy does for a GPU's."""
    with Bench("meta", tiny=True).made_here():
        pipeline = case.make(True)
    more = {"mu": 1.0} if pipeline.scheduler.config.get("use_dynamic_shifting") else {}
    pipeline.scheduler.set_timesteps(4, device="cpu", **more)
    assert pipeline.scheduler.timesteps.device.type == "cpu"
    denoiser = getattr(pipeline, case.denoiser)
    assert {parameter.device.type for parameter in denoiser.parameters()} == {"meta"}
    assert torch.get_default_dtype() == torch.float32


def tiny(folder, *more):
    return command.main(["--device", "cpu", "--tiny", "--out", str(folder), *more])


def figures(folder, section):
    content = json.loads((folder / FILE).read_text())["sections"][section]
    assert content["status"] == "done", content
    return content["figures"]


@pytest.mark.long
@pytest.mark.timeout(1200)  # it computes for 60 s, and other tests go first
def test_sections_run_on_a_cpu_and_are_not_run_twice(tmp_path, capfd):
    few = ["machine", "alone_and_merged", "loras", "graphs", "decode", "in_turns"]
    few += ["warm_to_hot", "copies_beside_forwards", "wan_14b_step", "out_of_memory"]
    assert tiny(tmp_path, "--only", *few) == 0
    merged = figures(tmp_path, "alone_and_merged")
    assert {"alone_same_bits": True} in merged
    assert [figure["batch_sizes"] for figure in merged if "batch_sizes" in figure] == [{"8": 2}]
    assert [figure["by"] for figure in merged if "by" in figure] == [
        "diffusers",
        "diffusers, a batch",
        "engine",
        "engine, merged",
    ]
    turns = figures(tmp_path, "in_turns")
    assert [turn["same_bits"] for turn in turns if "same_bits" in turn] == [True, True]
    assert turns[-1]["steps_left"] == 2
    assert [figure["loras"] for figure in figures(tmp_path, "loras")] == [0, 4]
    printed = capfd.readouterr().out
    assert "graphs: done" in printed
    assert len(printed) <= LONGEST + 1000
    assert {path.name for path in tmp_path.iterdir()} == {FILE, LOG}
    before = (tmp_path / FILE).read_text()
    assert tiny(tmp_path, "--only", *few) == 0
    assert (tmp_path / FILE).read_text() == before  # all of it is done


@pytest.mark.long
def test_a_run_writes_one_file_with_its_machine_and_prints_its_table(tmp_path, capfd):
    assert tiny(tmp_path, "--only", "machine", "--commit", "abc") == 0
    content = json.loads((tmp_path / FILE).read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert content["sections"]["machine"]["commit"] == "abc"
    assert {verdict["verdict"] for verdict in content["verdicts"].values()} == {"undecided"}
    printed = capfd.readouterr().out
    assert "product in bfloat16" in printed
    assert "published by others" in printed


@pytest.mark.long  # 7 s of CPU to import all sections, like the next one
def test_figures_of_another_card_are_not_mixed_in(tmp_path, capfd):
    Results(tmp_path).describe({"card": "NVIDIA H200", "torch": "2.11.0"})
    with pytest.raises(OtherMachine):
        Results(tmp_path).describe({"card": "NVIDIA H100", "torch": "2.11.0"})
    before = (tmp_path / FILE).read_text()
    assert tiny(tmp_path, "--only", "machine") == command.UNUSABLE
    assert "has figures of NVIDIA H200, 2.11.0" in capfd.readouterr().out
    assert (tmp_path / FILE).read_text() == before


@pytest.fixture
def bench():
    return Bench("cpu", tiny=True)


def run_until(end, name="first"):
    return Run(name, end, on_gpu=False, commit="abc")


FOREVER = run_until(float("inf"))


def test_a_section_is_cut_at_its_limit_and_its_figures_are_kept(tmp_path, bench):
    def endless(_):
        while True:
            yield {"figure": 1}

    results = Results(tmp_path)
    content = run_section(Section("endless", endless, 0.0), bench, results, FOREVER)
    assert content["status"] == "cut"
    assert results.section("endless")["figures"] == [{"figure": 1}]


def test_a_section_that_fails_keeps_its_figures_and_its_error(tmp_path, bench):
    def failing(_):
        yield {"figure": 1}
        raise ValueError("broken")

    results = Results(tmp_path)
    run_section(Section("failing", failing, 60.0), bench, results, FOREVER)
    content = results.section("failing")
    assert (content["status"], content["error"]) == ("failed", "ValueError: broken")
    assert content["figures"] == [{"figure": 1}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, ""),
        ({"status": "done", "tries": 1, "run": "earlier"}, "it is done"),
        ({"status": "running", "tries": 1, "run": "this"}, ""),  # it ended the process
        ({"status": "running", "tries": 2, "run": "this"}, "it ended the process 2 times"),
        ({"status": "cut", "tries": 1, "run": "this"}, "it was cut"),
        ({"status": "cut", "tries": 1, "run": "earlier"}, ""),
        ({"status": "failed", "tries": 1, "run": "earlier"}, ""),
        ({"status": "failed", "tries": 2, "run": "earlier"}, "it was failed"),
    ],
)
def test_a_later_run_repeats_what_was_cut_or_failed_once(tmp_path, content, reason):
    results = Results(tmp_path)
    results.update("it", content)
    run = run_until(time.monotonic() + 1000, "this")
    assert run.reason_to_skip(Section("it", machine, 60.0, needs=()), results) == reason


def test_what_is_missing_leaves_out_the_sections_that_need_it(tmp_path):
    section = Section("far", machine, 60.0, needs=("no_such_package",))
    run = run_until(time.monotonic() + 1000)
    assert run.reason_to_skip(section, Results(tmp_path)) == "no_such_package is missing"


def test_a_damaged_file_of_results_is_begun_anew(tmp_path):
    (tmp_path / FILE).write_text('{"sections": {"machine"')
    results = Results(tmp_path)
    results.update("machine", {"status": "done"})
    assert Results(tmp_path).section("machine") == {"status": "done"}


@pytest.mark.parametrize("plan", MINUTES)
def test_the_sections_of_a_plan_fit_into_its_minutes_with_the_start(plan):
    seconds = sum(section.seconds for section in sections() if section.plan == plan)
    assert seconds / 60 + START_MINUTES <= MINUTES[plan]


def test_both_plans_and_two_starts_of_a_machine_fit_into_a_quarter_of_an_hour():
    assert sum(MINUTES.values()) <= 15 - 2 * 1.25


CHILD = """
import os, sys, time
from pathlib import Path
from benchmarks.gpu.results import Results
from benchmarks.gpu.runner import Run, run_here
from benchmarks.gpu.section import Section

class Bench:
    def free(self): pass

def hangs(_):
    yield {"figure": 1}
    time.sleep(1000)

def fails(_):
    yield {"figure": 2}
    raise ValueError("broken")

def works(_):
    yield {"figure": 3}
    yield {"figure": os.getpid()}

def in_another_process(_):
    yield {"figure": os.getpid()}

limits = {"hangs": float(sys.argv[3]), "fails": 540.0, "works": 540.0}
limits["in_another_process"] = 540.0
chosen = [
    Section(name, globals()[name], limit, needs=(), spoils=name == "works")
    for name, limit in limits.items()
]
run = Run("first", float(sys.argv[2]), on_gpu=False, commit="abc")
sys.exit(run_here(chosen, Bench(), Results(Path(sys.argv[1])), run))
"""


def watch_sections(tmp_path, end, hangs_s):
    results = Results(tmp_path)
    names = ("hangs", "fails", "works", "in_another_process")
    chosen = [Section(name, machine, 540.0, needs=()) for name in names]
    child = [sys.executable, "-c", CHILD, str(tmp_path), repr(end), repr(hangs_s)]
    Watch(child, results, run_until(end)).watch(chosen)
    return {section.name: results.section(section.name) for section in chosen}


def test_a_figure_that_takes_too_long_is_ended_and_the_other_sections_run(tmp_path):
    ended = watch_sections(tmp_path, time.monotonic() + 1000, hangs_s=0.0)
    statuses = {name: (section["status"], section["figures"]) for name, section in ended.items()}
    assert statuses["fails"] == ("failed", [{"figure": 2}])
    assert statuses["works"][0] == "done"
    assert statuses["works"][1][0] == {"figure": 3}
    # A section that spoils its process is the last one in it.
    assert statuses["works"][1][1] != statuses["in_another_process"][1][0]
    assert ended["works"]["tries"] == ended["fails"]["tries"] == 1
    # It is ended before its figure, or after it, by a machine's speed.
    assert statuses["hangs"][0] == "cut"


def test_a_run_ends_in_time_and_keeps_what_it_has(tmp_path):
    results, ended = Results(tmp_path), dict[str, dict]()
    thread = threading.Thread(
        target=lambda: ended.update(watch_sections(tmp_path, time.monotonic() + 300, hangs_s=540.0))
    )
    thread.start()
    while not results.section("hangs").get("figures") and thread.is_alive():
        time.sleep(0.05)
    results.update("hangs", results.section("hangs") | {"limit": 0.0})  # as if the time had come
    thread.join()
    assert ended["hangs"]["status"] == "cut"
    assert ended["hangs"]["figures"] == [{"figure": 1}]


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capfd, tmp_path):
    assert command.main(["--out", str(tmp_path)]) == command.UNUSABLE
    assert "sees no GPU. Use --device cpu --tiny." in capfd.readouterr().out


def test_a_section_that_there_is_not_is_refused_with_those_that_there_are(capfd):
    assert command.main(["--only", "speed"]) == command.UNUSABLE
    assert "There is no section speed. Sections: machine, " in capfd.readouterr().err
