"""Caches of a replica, among tenants."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.deployments.conftest import MakeRig
from tests.deployments.demos import FLUX, make_lease

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@pytest.mark.variants(1)
@pytest.mark.parametrize("shared", [False, True])
async def test_a_prompt_of_one_tenant_is_encoded_again_for_another_unless_caches_are_shared(
    make_rig: MakeRig, *, shared: bool
) -> None:
    rig = await make_rig(slots=1)
    object.__setattr__(rig.resources, "share_caches", shared)
    encoded: list[int] = []
    for name, tenant in (("one", "a"), ("two", "a"), ("three", "b")):
        lease = replace(make_lease(rig, name, FLUX), tenant=tenant)
        rig.port.offer(lease)
        assert (await rig.outcome(lease.key)).failure is None
        encoded.append(rig.resources.engine.counts()["prompts_encoded"])
    once = encoded[0]
    assert once > 0
    assert encoded == [once, once, once if shared else 2 * once]
