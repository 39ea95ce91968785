"""The tests for a GPU, on a CPU: all of them load, and some of most files run, so that they are
still right when there is a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]

SOME = {  # by name, with the number of their cases
    "test_calls_with_and_without_loras_merge_in_8_bits": 2,
    "test_loras_and_deterministic_requests_run_beside_graphs": 1,
    "test_after_the_last_lora_the_model_gives_its_own_bits_again": 1,
    "test_loras_work_where_blocks_are_streamed": 1,
    "test_the_rule_of_agreement_takes_a_real_layer_and_refuses_a_wrong_one": 2,
    "test_storage_in_8_bits_changes_little_and_merges": 3,
    "test_a_cancelled_generation_ends_and_the_others_get_their_own_images": 1,
}


@pytest.mark.long
def test_some_run_on_a_cpu_without_the_plugins_and_settings_of_the_others():
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--noconftest"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(ROOT), "-W", "ignore"]
    known = {"DARKROOM_GPU_TESTS_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [*command, "tests/gpu", "-k", " or ".join(SOME)],
        cwd=ROOT,
        env=os.environ | known,  # noqa: TID251 the process gets ours
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    passed = ran.stdout.strip().splitlines()[-1]
    assert f"{sum(SOME.values())} passed" in passed
