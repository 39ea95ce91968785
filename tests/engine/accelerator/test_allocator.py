"""Settings of torch's allocator."""

import os
import subprocess
import sys
from random import Random

import pytest

from deployments.engine.accelerator.allocator import (
    EXPANDABLE,
    OLDER_NAMES,
    SETTING,
    use_expandable_segments,
)
from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.replica.config import ReplicaConfig
from deployments.replica.deployment import make_resources
from deployments.transfer.uploader import Backoff
from serve_app.domain.errors import Misconfigured
from serve_app.telemetry.clock import SystemClock

pytestmark = pytest.mark.engine

READ_LATE = """
import sys
from deployments.engine.accelerator.allocator import use_expandable_segments
assert "torch" not in sys.modules
import torch
use_expandable_segments()
torch._C._accelerator_setAllocatorSettings("pinned_use_background_threads:False")
"""


def test_a_process_uses_expandable_segments() -> None:
    environ = dict[str, str]()
    use_expandable_segments(environ)
    assert environ == {SETTING: EXPANDABLE}


@pytest.mark.parametrize("name", [SETTING, *OLDER_NAMES])
def test_what_the_operator_has_configured_stays_as_it_is(name: str) -> None:
    environ = {name: "max_split_size_mb:512"}
    use_expandable_segments(environ)
    assert environ == {name: "max_split_size_mb:512"}


def test_a_replica_configures_its_process_before_it_looks_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (SETTING, *OLDER_NAMES):
        monkeypatch.setenv(name, "")  # so that it is as before after the test
        monkeypatch.delenv(name)
    seen = list[str]()

    def look() -> str:
        seen.append(os.environ.get(SETTING, ""))  # noqa: TID251 torch's setting
        raise Misconfigured("Enough was seen.")

    monkeypatch.setattr("deployments.engine.accelerator.selection.usual_device", look)
    with pytest.raises(Misconfigured, match="Enough"):
        make_resources(ReplicaConfig(), {}, SystemClock(), Backoff(Random(0)))  # noqa: S311
    assert seen == [EXPANDABLE]


@pytest.mark.long
def test_torch_reads_the_setting_after_it_was_imported_and_knows_the_value() -> None:
    own = os.environ  # noqa: TID251 for a child
    environ = {name: value for name, value in own.items() if "ALLOC_CONF" not in name}
    wrong = READ_LATE.replace(
        "use_expandable_segments()", f"import os; os.environ[{SETTING!r}] = 'expandable_segments:?'"
    )
    for code, works in ((READ_LATE, True), (wrong, False)):
        done = subprocess.run([sys.executable, "-c", code], env=environ, check=False)
        assert (done.returncode == 0) is works


def test_pages_that_cannot_be_mapped_are_too_little_memory() -> None:
    assert is_out_of_memory(RuntimeError("CUDA driver error: out of memory"))
