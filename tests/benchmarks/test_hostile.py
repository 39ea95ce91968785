"""The benchmark of a hostile tenant finds attacks that reach nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hostile import ASKED_FOR, ATTACKS, LOOKED_UP, RECEIVED, RESOLVER, SILENT, Seen

ARRIVED = {
    "flood": Seen({"200": 1, "429": 40, "ReadTimeout": 2}),
    "bodies": Seen({"200": 3, "503": 1}),
    "history": Seen({"200": 3}),
    "names": Seen({"200": 9, LOOKED_UP: 1}),
    "silence": Seen({"200": 9, LOOKED_UP: 8}),
    "inputs": Seen({"200": 9, LOOKED_UP: 8}),
    "uploads": Seen({ASKED_FOR: 32, "408": 3}),
    "hooks": Seen({"200": 9, RECEIVED: 4}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_arrives_is_no_problem(name: str) -> None:
    assert ATTACKS[name].problem(ARRIVED[name]) == ""


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("status", ["401", "403", "404", "422", "500"])
def test_answers_by_something_else_are_a_problem(name: str, status: str) -> None:
    problem = ATTACKS[name].problem(ARRIVED[name] + Seen({status: 2}))
    assert problem.startswith(f"Calls were answered {status}, not by what they attack (")
    assert f"2 x {status}" in problem


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_of_which_nothing_arrives_is_a_problem(name: str) -> None:
    only_refused = Seen({"429": 7, "ConnectError": 3})
    for seen in (Seen(), only_refused):
        assert "did not arrive in this time" in ATTACKS[name].problem(seen)


@pytest.mark.parametrize("name", ["names", "silence", "inputs", "hooks"])
def test_submits_alone_are_not_what_a_webhook_or_an_input_file_attacks(name: str) -> None:
    assert "not of " in ATTACKS[name].problem(Seen({"200": 9}))


def test_look_ups_of_silent_names_hang_and_all_are_noted(tmp_path: Path) -> None:
    log = tmp_path / "looked-up"
    module = RESOLVER.format(log=str(log), silent=SILENT).replace("time.sleep(10)", "print('hung')")
    (tmp_path / "sitecustomize.py").write_text(module)
    script = f"""
import socket
socket.getaddrinfo("127.0.0.1", 80)
try:
    socket.getaddrinfo("a.{SILENT}", 443)
except socket.gaierror as error:
    print(error.errno == socket.EAI_AGAIN)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["hung", "True"]
    assert log.read_text() == f"a.{SILENT}\n"
