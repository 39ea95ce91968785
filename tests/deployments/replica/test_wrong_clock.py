"""A machine with a wrong clock."""

import time
from dataclasses import replace

import pytest

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
async def test_a_replica_works_whatever_its_machine_takes_the_time_to_be(
    rig, monkeypatch: pytest.MonkeyPatch, off_s
):
    right = time.time  # noqa: TID251 the wall clock is what is wrong here
    monkeypatch.setattr(time, "time", lambda: right() + off_s)
    lease = replace(rig.lease("one", steps=3, artifact_bytes=10), deadline_s=60.0)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.succeeded
    assert 0.0 < outcome.usage.run_s < 30.0
