"""Where signed files are required, a format that cannot be signed is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog, load
from tests.ingress.house import DEMO, build_house

CATALOG = load(None, demo=True, demo_dir=DEMO)
WAN = "fal-ai/wan/v2.2-5b/text-to-video"
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
    async with (
        build_house(catalog=CATALOG, replica=False, **settings) as house,
        house.client() as client,
    ):
        body = {"prompt": "x", "output_format": "webm"}
        answer = await client.post(f"/queue/{WAN}", json=body)
        assert answer.status_code == status, answer.text
        if status == 422:
            (problem,) = answer.json()["detail"]
            assert problem["loc"] == ["body", "output_format"]
            assert "video/webm cannot be signed" in problem["msg"]
        fine = await client.post(f"/queue/{WAN}", json={**body, "output_format": "mp4"})
        assert fine.status_code == 200


APP = """
built_in: false
endpoints:
  apps/film:
    family: python
    schema: json
    options:
      app: {bundle: ab, class: "film:Film", path: /}
      input_schema: {type: object, properties: {output_format: {type: string}}}
      output_schema: {type: object}
"""


@pytest.fixture
def apps(tmp_path: Path) -> Catalog:
    (tmp_path / "models.yaml").write_text(APP)
    return load(tmp_path / "models.yaml", demo=False, demo_dir=tmp_path)


async def test_a_format_that_an_app_is_asked_for_is_refused_before_it_runs(apps: Catalog) -> None:
    async with (
        build_house(catalog=apps, replica=False, **STRICT) as house,
        house.client() as client,
    ):
        for named in ("webm", "audio/ogg"):
            answer = await client.post("/queue/apps/film", json={"output_format": named})
            assert answer.status_code == 422, answer.text
            assert "cannot be signed" in answer.json()["detail"][0]["msg"]
        for fine in ({"output_format": "mp4"}, {"output_format": "any"}, {}):
            assert (await client.post("/queue/apps/film", json=fine)).status_code == 200
