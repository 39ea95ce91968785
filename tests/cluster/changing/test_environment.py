"""What `darkroom serve` takes over from who starts it: settings with secrets, and ignored signals.

That a closed terminal ends everything is tested with the Darkroom that all tests share, at its end
(tests/conftest.py)."""

from __future__ import annotations

import contextlib

import psutil
import pytest

from tests.cluster.changing.conftest import HUB_TOKEN, KEY, WithPool, probe_pool
from tests.cluster.darkroom import Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.fixture
def under_nohup(with_pool: WithPool) -> Darkroom:
    """With one replica, which is ready."""
    darkroom = with_pool(probe_pool(1))
    darkroom.all_ready(1)
    eventually(lambda: len(darkroom.replicas()) == 1, "there is one replica")
    return darkroom


def test_the_processes_of_a_pool_hold_no_secret(under_nohup: Darkroom) -> None:
    darkroom = under_nohup
    assert darkroom.key == KEY
    for process in darkroom.replicas():
        environment = " ".join(process.environ().values())
        assert KEY not in environment
        assert (darkroom.data_dir / "postgres" / "password").read_text() not in environment
        descriptors = [file.path for file in process.open_files()]
        assert not [path for path in descriptors if "postgres" in path or "api_key" in path]
        # No connection to the database either: its socket is the only way in.
        unix = [connection.laddr for connection in process.net_connections("unix")]
        assert not [path for path in unix if ".s.PGSQL" in str(path)]


def test_no_process_but_the_first_has_a_secret_in_its_environment_or_its_command(
    under_nohup: Darkroom,
) -> None:
    darkroom = under_nohup
    secrets = (KEY, (darkroom.data_dir / "postgres" / "password").read_text().strip())
    started = [
        leftover for leftover in darkroom.leftovers() if leftover.pid != darkroom.process.pid
    ]
    assert len(started) > 10  # Ray's, PostgreSQL's, HAProxy's
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            shown = [*process.environ().values(), *process.cmdline()]
            assert not [value for value in shown if any(secret in value for secret in secrets)], (
                process
            )


def test_the_token_of_the_hub_reaches_replicas_and_not_the_ingress(under_nohup: Darkroom) -> None:
    darkroom = under_nohup
    assert [replica.environ().get("HF_TOKEN") for replica in darkroom.replicas()] == [HUB_TOKEN]
    assert not any(replica.environ().get("HF_TOKEN") for replica in darkroom.replicas("ingress"))


def test_where_hangups_are_ignored_a_closed_terminal_ends_nothing(under_nohup: Darkroom) -> None:
    darkroom = under_nohup
    before = {leftover.pid for leftover in darkroom.leftovers()}
    darkroom.hang_up()
    assert darkroom.in_state(darkroom.submit(steps=3, step_ms=20), "succeeded")["failures"] == 0
    assert before <= {leftover.pid for leftover in darkroom.leftovers()}
