"""What an attempt says about itself: its printed lines, and its failure."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from darkroom.reporting import MAX_LOG_LINE
from deployments.replica.attempt_state import AttemptState
from deployments.replica.failures import MAX_PRINTED, PrintedLines, as_failure
from serve_app.domain.executors.fallback import USUAL_ERRORS
from serve_app.domain.progress import MAX_STEPS, Progress, Stage
from serve_app.telemetry.clock import SystemClock


def test_a_long_line_is_cut() -> None:
    printed = PrintedLines(10)
    printed.append("INFO", "x" * 10**6)
    assert [len(text) for _, text in printed.take()] == [MAX_LOG_LINE]


def test_lines_that_wait_have_a_size_also_when_a_report_is_lost() -> None:
    printed = PrintedLines(1000)
    for number in range(300):
        printed.append("INFO", f"{number} " + "x" * MAX_LOG_LINE)
    taken = printed.take()
    assert sum(len(text) for _, text in taken) <= MAX_PRINTED
    assert taken[-1][1].startswith("299 ")
    printed.append("INFO", "the last")
    printed.end_report(lost=taken)
    again = printed.take()
    assert sum(len(text) for _, text in again) <= MAX_PRINTED
    assert again[-2:] == (taken[-1], ("INFO", "the last"))
    printed.append("INFO", "after")
    assert printed.take() == (("INFO", "after"),)


def test_what_prints_none_keeps_none() -> None:
    printed = PrintedLines()
    printed.append("INFO", "a line")
    assert printed.take() == ()


async def test_no_number_that_an_app_reports_breaks_the_report_of_its_replica() -> None:
    state = AttemptState(SystemClock(), lambda: None)
    for step in (0, 10**400):
        state.set_progress(Progress(Stage.RUNNING, step, 10**400))
        await asyncio.sleep(0.1)  # so that there is a rate
    state.set_progress(Progress(Stage.RUNNING, 10**401, 10**401))
    assert state.progress is not None
    assert (state.progress.step, state.progress.steps) == (MAX_STEPS, MAX_STEPS)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EIO])
def test_another_replica_tries_what_this_machine_has_no_room_for(code: int) -> None:
    failure = as_failure(OSError(code, os.strerror(code), "/scratch/video.mp4"))
    assert failure.retryable
    assert failure.code == "unavailable"
    assert failure.code in USUAL_ERRORS, "another endpoint may have room too"
    assert "/scratch" not in failure.message


def test_another_error_of_the_pipeline_is_its_own() -> None:
    failure = as_failure(FileNotFoundError(errno.ENOENT, "No such file", "config.json"))
    assert (failure.code, failure.retryable) == ("pipeline_failed", False)
