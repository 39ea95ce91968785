"""Whatever the engine does for a generation, it does in the context of who submitted it: that is
how lines of the log come by the id of a request."""

import logging
import threading
from contextvars import ContextVar, copy_context

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.interception.isolation import run_in_context
from deployments.engine.loading.loads import LoadPlan
from deployments.engine.loading.residency import Residency
from deployments.engine.lora.format import Lora
from serve_app.domain.errors import (
    Cancelled,
    OutOfMemory,
    PipelineFailed,
    SnapshotRefused,
    Unsupported,
)
from serve_app.domain.progress import Stage
from tests.engine.calls import call
from tests.engine.gate import Gate
from tests.engine.loops import Denoiser, FailsTogether, Loop
from tests.engine.loras import save_lora

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

WHOSE = ContextVar("whose", default="no one's")
START = torch.zeros(1, 2)


class Log(logging.Handler):
    """The context that each line is about."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.getMessage(), WHOSE.get()))

    def whose(self, beginning):
        return [whose for message, whose in self.lines if message.startswith(beginning)]


@pytest.fixture
def log():
    handler, logger = Log(), logging.getLogger("deployments.engine")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def engine():
    with Engine(Loop(Denoiser()), threads=1) as engine:
        yield engine


def by(whose, call, /, *arguments, **keywords):
    """The call, made by somebody who is known by a context variable."""

    def made():
        WHOSE.set(whose)
        return call(*arguments, **keywords)

    return copy_context().run(made)


def test_pipelines_and_callbacks_run_in_the_context_of_who_submitted(engine):
    recorded = []

    class Recording(Loop):
        def __call__(self, *arguments, **more):
            recorded.append(("call", WHOSE.get()))
            return super().__call__(*arguments, **more)

    class Computing(Denoiser):
        def compute(self, *arguments):
            recorded.append(("computes", WHOSE.get()))
            return super().compute(*arguments)

    engine.add("it", Recording(Computing()))
    gate = Gate(engine)
    generation = by(
        "anna's",
        engine.submit,
        pipeline="it",
        on_progress=lambda _: recorded.append(("progress", WHOSE.get())),
        start=START,
    )
    generation.add_done_callback(lambda _: recorded.append(("done", WHOSE.get())))
    gate.open()
    generation.result(60)
    engine.close()  # callbacks come after the result
    assert {what for what, _ in recorded} == {"call", "computes", "progress", "done"}
    assert {whose for _, whose in recorded} == {"anna's"}


def test_those_that_take_turns_see_each_its_own_and_what_one_changes_no_other_sees(engine):
    seen = {"anna's": [], "bert's": []}

    class Changing(Loop):
        def __call__(self, start, whose):
            for _ in range(4):
                seen[whose].append(WHOSE.get())
                WHOSE.set(f"{WHOSE.get()}!")
                start = self.transformer(start, timestep=0)
            return start

    engine.add("it", Changing(Denoiser()))
    gate = Gate(engine)
    running = [by(who, engine.submit, pipeline="it", start=START, whose=who) for who in seen]
    gate.open()
    for generation in running:
        generation.result(60)
    for whose, values in seen.items():
        assert values == [whose, f"{whose}!", f"{whose}!!", f"{whose}!!!"]
    assert WHOSE.get() == "no one's"


def test_a_warning_about_a_listener_says_whose_it_was(engine, log):
    def fails(_):
        raise ZeroDivisionError

    gate = Gate(engine)
    running = [by(who, engine.submit, on_progress=fails, start=START) for who in ("a's", "b's")]
    gate.open()
    for generation in running:
        generation.result(60)
    assert set(log.whose("A listener for progress failed")) == {"a's", "b's"}


def test_a_warning_about_a_snapshot_says_whose_it_was(engine, log, monkeypatch):
    monkeypatch.setattr("deployments.engine.loop.run.capture", lambda *_, **__: 1 / 0)
    snapshots = []

    def ask(progress):
        if progress.stage is Stage.DENOISING and progress.step == 1:
            snapshots.append(generation.request_snapshot())

    gate = Gate(engine)
    generation = by("anna's", engine.submit, on_progress=ask, start=START)
    gate.open()
    generation.result(60)
    assert isinstance(snapshots[0].exception(60), ZeroDivisionError)
    assert log.whose("A snapshot could not be taken") == ["anna's"]


def test_a_warning_about_one_that_fails_while_it_is_ended_says_whose_it_was(engine, log):
    class Stubborn(Loop):
        def __call__(self, *arguments, **more):
            try:
                return super().__call__(*arguments, **more)
            finally:
                raise ZeroDivisionError

    engine.add("it", Stubborn(Denoiser()))
    begun = threading.Event()
    generation = by(
        "anna's",
        engine.submit,
        pipeline="it",
        on_progress=lambda _: begun.set(),
        start=START,
        steps=10**9,
    )
    assert begun.wait(60)
    generation.cancel()
    with pytest.raises(Cancelled):
        generation.result(60)
    assert log.whose("A pipeline raised an error while its generation was being ended") == [
        "anna's"
    ]


def test_the_report_of_memory_that_has_run_out_says_whose_it_was(engine, log):
    class Full(Denoiser):
        def compute(self, latents, timestep):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    engine.add("it", Loop(Full()))
    generation = by("anna's", engine.submit, pipeline="it", start=START)
    with pytest.raises(OutOfMemory):
        generation.result(60)
    assert set(log.whose("Out of memory")) == {"anna's"}


def test_a_line_about_several_requests_belongs_to_none(engine, log):
    engine.add("it", Loop(FailsTogether()))
    gate = Gate(engine)
    running = [by(who, engine.submit, pipeline="it", start=START) for who in ("a's", "b's")]
    gate.open()
    for generation in running:
        generation.result(60)
    assert log.whose("Calls of FailsTogether with these shapes are no longer merged") == [
        "no one's"
    ]


def test_a_lora_is_loaded_for_the_one_who_asked_for_it(flux, tmp_path, log):
    lora = Lora(save_lora(tmp_path, flux, 1, 4))
    with Engine(flux, threads=1) as engine:
        by("anna's", engine.submit, loras=[lora], **call()).result(60)
        by("bert's", engine.submit, loras=[lora], **call()).result(60)
    assert log.whose("Loaded the LoRA") == ["anna's"]


def test_weights_are_loaded_for_the_first_who_asked_for_them(engine, log):
    residency = Residency(engine, 10**6)
    loan = by("anna's", residency.acquire, "it", LoadPlan(lambda *_: Loop(Denoiser())))
    loan.future.result(60)
    assert log.whose("Load") == ["anna's", "anna's"]  # "Loading …", "Loaded …"
    residency.close()


def test_who_asks_too_late_is_answered_in_the_context_of_the_generation(engine):
    answered = {}

    def note(kind):
        return lambda asked: answered.setdefault(kind, (type(asked.exception()), WHOSE.get()))

    class Slow(Loop):
        def __call__(self, *arguments, **more):
            self.asked = [generation.request_preview(after=9), generation.request_snapshot()]
            for future, kind in zip(self.asked, ("preview", "snapshot"), strict=True):
                future.add_done_callback(note(kind))
            raise PipelineFailed("On purpose.")

    engine.add("it", Slow(Denoiser()))
    gate = Gate(engine)
    generation = by("anna's", engine.submit, pipeline="it", start=START)
    gate.open()
    with pytest.raises(PipelineFailed):
        generation.result(60)
    # Its result is there first, and then those who asked are answered, on the engine's thread.
    engine.close()
    assert answered == {
        "preview": (Unsupported, "anna's"),
        "snapshot": (SnapshotRefused, "anna's"),
    }


def test_a_context_may_be_entered_again_inside_of_itself():
    context = by("anna's", copy_context)
    with run_in_context(context):
        with run_in_context(context):
            assert WHOSE.get() == "anna's"
        with run_in_context(by("bert's", copy_context)):
            assert WHOSE.get() == "bert's"
        assert WHOSE.get() == "anna's"
    assert WHOSE.get() == "no one's"
