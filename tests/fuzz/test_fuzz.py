"""A bounded sample of what ``scripts/fuzz`` does, the same at each run, and the fuzzer itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz import targets
from tests.fuzz.__main__ import NAMES, inputs, main
from tests.fuzz.fuzzer import Fuzzer
from tests.fuzz.mutation import mutate

pytestmark = [pytest.mark.engine, pytest.mark.long]

INPUTS = 30  # of each target
FOUND = Path(__file__).with_name("found")
"""Inputs that readers did not refuse by name before they were corrected."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """One child for all tests that need torch in it."""
    harness = Fuzzer(tmp_path_factory.mktemp("found"))
    yield harness
    harness.close()


@pytest.fixture
def fuzzer(tmp_path: Path) -> Iterator[Fuzzer]:
    harness = Fuzzer(tmp_path)
    yield harness
    harness.close()


def test_damaged_inputs_are_refused_by_name(engine: Fuzzer) -> None:
    for target, seed in islice(inputs(2026, NAMES), INPUTS * len(NAMES)):
        engine.run(target, seed)
    assert not engine.findings, "\n".join(
        f"{finding.seed}: {finding.shown}" for finding in engine.findings
    )


def test_what_was_found_before_is_refused_by_name(engine: Fuzzer) -> None:
    for file in sorted(FOUND.iterdir()):
        engine.repeat(file)
    assert not engine.findings, "\n".join(
        f"{finding.seed}: {finding.shown}" for finding in engine.findings
    )


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_read_before_they_are_damaged(name: str) -> None:
    target = targets.TARGETS[name]
    read = 0
    for sample in target.samples():
        try:
            target.read(sample)
        except target.refusals:
            continue
        read += 1
    assert read, "No sample is valid, so no damage can be found behind the first check."


def test_each_target_is_named_for_the_command() -> None:
    assert targets.TARGETS.keys() == {*NAMES}


def test_a_seed_gives_the_same_input_again() -> None:
    samples = [b"a" * 1000, b"b" * 10, b""]
    assert mutate("1/json/5", samples) == mutate("1/json/5", samples)
    assert len({mutate(f"1/json/{n}", samples) for n in range(50)}) > 30


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("raise KeyError('a')", "KeyError"),
        ("import os; os._exit(7)", "the process ended with 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process ended with -11"),
        ("bytearray(4 << 30)", "MemoryError"),
    ],
)
def test_what_is_no_refusal_is_kept_with_its_input_and_read_again(
    fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, what: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import serve_app.ingress.http.body as body\n"
        f"def parse(raw):\n    {code}\n"
        "body.parse = parse\n"
    )
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), root]))
    fuzzer.run("json", "1/json/1")
    (failure,) = fuzzer.findings
    assert failure.what == what
    kept = tmp_path / failure.file_name
    assert kept.read_bytes() == mutate("1/json/1", targets.TARGETS["json"].samples())
    fuzzer.repeat(kept)
    assert [finding.what for finding in fuzzer.findings] == [what, what]


def test_a_reader_that_does_not_answer_is_found(
    fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = subprocess.Popen(["sleep", "600"], stdin=-1, stdout=-1, text=True)
    fuzzer._child = silent
    monkeypatch.setattr("tests.fuzz.fuzzer.INPUT_LIMIT_S", 0.01)
    fuzzer._scratch.write_bytes(b"{}")
    fuzzer.run("json", "1/json/1")
    assert [finding.what for finding in fuzzer.findings] == ["no answer within 0 s"]
    assert silent.poll() is not None


def test_the_command_reports_what_was_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sample = tmp_path / "json--1.bin"
    sample.write_bytes(b'{"a": NaN}')
    monkeypatch.setattr("sys.argv", ["fuzz", "--repeat", str(sample)])
    assert main() == 0
    assert "1 inputs, 0 findings." in capsys.readouterr().out
