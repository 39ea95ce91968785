"""Where signed files are required, a format that cannot be signed is refused before any work."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployments.demos import CATALOG, WAN
from tests.ingress.house import built

STRICT: dict[str, Any] = {"mark_files": "required", "sign_files": "local"}


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (STRICT, 422),
        ({**STRICT, "mark_files": "on"}, 200),
        ({**STRICT, "sign_files": "off"}, 200),
        ({**STRICT, "tenant_mark_files": {"default": "on"}}, 200),
    ],
)
async def test_the_policy_of_the_tenant_decides(settings: dict[str, Any], status: int) -> None:
    async with built(catalog=CATALOG, replica=False, **settings) as house, house.client() as client:
        body = {"prompt": "x", "output_format": "webm"}
        answer = await client.post(f"/queue/{WAN}", json=body)
        assert answer.status_code == status, answer.text
        if status == 422:
            (problem,) = answer.json()["detail"]
            assert problem["loc"] == ["body", "output_format"]
            assert "video/webm cannot be signed" in problem["msg"]
        fine = await client.post(f"/queue/{WAN}", json={**body, "output_format": "mp4"})
        assert fine.status_code == 200
