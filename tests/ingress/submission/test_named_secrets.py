"""Requests to endpoints that name a secret which is not set: refused before they are queued."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.audit.acts import Actor
from serve_app.domain.executors.secrets import INSTALLATION
from serve_app.resources.secrets import SECRETS
from tests.fakes.clock import FakeClock
from tests.ingress.house import DEMO, House, build_house

ME = Actor("key-1", "192.0.2.1")
MODELS = """\
built_in: false
endpoints:
  test/app:
    family: python
    schema: json
    options:
      secrets: [HF_TOKEN]
      app: {bundle: "aa", class: "a:A", path: /}
      input_schema: {type: object, additionalProperties: true}
      output_schema: {type: object}
  "fal-ai/*":
    family: fal
    schema: json
    options:
      secrets: [FAL_KEY]
      hosted: {endpoint: "*", own_key: true}
      input_schema: {type: object, additionalProperties: true}
      output_schema: {type: object}
"""
PASSED = "fal-ai/flux/dev"
DOCUMENTED = MODELS.replace('"fal-ai/*"', PASSED).replace('"*"', PASSED)
"""The same endpoints, for the document that answers are compared with: it has no passed ones."""


@pytest.fixture
def documented_catalog(tmp_path: Path) -> Catalog:
    path = tmp_path / "documented.yaml"
    path.write_text(DOCUMENTED)
    return load(path, demo=True, demo_dir=DEMO)


@pytest.fixture
async def house(tmp_path: Path, documented_catalog: Catalog) -> AsyncIterator[House]:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    async with build_house(models=path, documented=documented_catalog, replica=False) as house:
        yield house


async def submit_request(house: House, endpoint: str) -> tuple[int, str]:
    async with house.client() as client:
        answer = await client.post(f"/queue/{endpoint}", json={"prompt": "x"})
    return answer.status_code, answer.text


async def test_an_app_needs_the_secret_of_the_installation(house: House) -> None:
    await house.services.secrets.put("default", "HF_TOKEN", "a tenant's", ME)
    status, text = await submit_request(house, "test/app")
    assert status == 400
    assert "test/app needs the secret HF_TOKEN, which is not set." in text
    assert "`darkroom secrets set HF_TOKEN --installation`" in text
    await house.services.secrets.put(INSTALLATION, "HF_TOKEN", "ours", ME)
    status, text = await submit_request(house, "test/app")
    assert status == 200, text


async def test_a_passed_endpoint_may_need_a_key_of_the_tenants_own(house: House) -> None:
    await house.services.secrets.put(INSTALLATION, "FAL_KEY", "ours", ME)
    status, text = await submit_request(house, PASSED)
    assert status == 400
    assert f"{PASSED} needs a key of your own in the secret FAL_KEY" in text
    await house.services.secrets.put("default", "FAL_KEY", "theirs", ME)
    status, text = await submit_request(house, PASSED)
    assert status == 200, text


async def test_a_secret_that_is_set_is_looked_up_only_now_and_then(house: House) -> None:
    book, known, clock = house.services.secrets, house.services.known_secrets, FakeClock()
    assert not await known.has(book, "acme", "FAL_KEY", clock)
    await book.put("acme", "FAL_KEY", "x", ME)
    assert await known.has(book, "acme", "FAL_KEY", clock)
    assert await house.services.tables.of(SECRETS).delete("acme", "FAL_KEY", ME)
    assert await known.has(book, "acme", "FAL_KEY", clock), "it was there a moment ago"
    clock.advance(6.0)
    assert not await known.has(book, "acme", "FAL_KEY", clock)
