"""``/v1/weights``: registered weights, in requests and as private endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.private import identity_of
from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.media.safety import SafetyPolicy, SafetyRule
from serve_app.registry.records import WEIGHTS, CheckedWeights, StoredWeightFile, job_name
from tests.fakes.image_checkers import rule as checked
from tests.ingress.api.test_loras import loras, safetensors, upload
from tests.ingress.house import CATALOG, MODELS, House, build_house
from tests.ingress.socket import connect
from tests.queue.requests import new

BASE = "test/probe"
DIGEST = "d" * 64


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """House whose catalogue is read again when private endpoints change."""
    async with build_house(models=MODELS, documented=make_catalog("default/portraits")) as house:
        yield house


def make_catalog(*private: str) -> Catalog:
    """The catalogue with private endpoints."""
    probe = CATALOG.get_listed(BASE)
    own = [
        replace(probe, endpoint=replace(probe.endpoint, id=endpoint_id)) for endpoint_id in private
    ]
    return Catalog({model.endpoint.id: model for model in (*CATALOG, *own)})


@pytest.fixture
async def idle() -> AsyncIterator[House]:
    async with build_house(replica=False, models=MODELS) as house:
        yield house


async def add(client: httpx.AsyncClient, name: str = "style", **fields: Any) -> httpx.Response:
    body: dict[str, Any] = {"name": name, "base": BASE, "source": "owner/name@main", **fields}
    return await client.post("/v1/weights", json=body)


async def made_ready(
    house: House,
    kind: str = "lora",
    path: str = "lora.safetensors",
    digest: str = DIGEST,
    **facts: Any,
) -> None:
    """End the check of the weights that wait."""
    (job,) = await house.weights.jobs.take(WEIGHTS, 1)
    waiting = await house.weights.find(*job_name(job))
    assert waiting is not None
    await house.weights.adopt(digest, "w/a.safetensors", 100)
    assert await house.weights.reserve(job, 100, 10**9)
    entry = house.services.catalog.find(waiting.base)
    assert entry is not None
    files = [StoredWeightFile(path, digest, 100)]
    checked = CheckedWeights(kind, files, identity_of(entry.endpoint.weights), facts)
    assert await house.weights.accept(job, checked)
    await house.services.entries.refresh()


async def submit(
    client: httpx.AsyncClient, endpoint: str = BASE, **arguments: Any
) -> httpx.Response:
    return await client.post(f"/queue/{endpoint}", json=arguments)


async def test_weights_are_registered_shown_listed_and_removed(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await add(client)
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["path"]) == ("waiting", "weights:style")
    assert answer.json()["source"] == "owner/name@main"
    await made_ready(house)
    shown = (await client.get("/v1/weights/style")).json()
    assert (shown["state"], shown["kind"]) == ("ready", "lora")
    assert shown["files"] == [{"path": "lora.safetensors", "sha256": DIGEST, "size": 100}]
    page = (await client.get("/v1/weights")).json()
    assert [entry["name"] for entry in page["weights"]] == ["style"]
    assert page["used_bytes"] == 100
    assert (await client.delete("/v1/weights/style")).status_code == 204
    assert (await client.get("/v1/weights/style")).status_code == 404
    assert (await client.get("/v1/weights/sty%00le")).status_code == 404
    assert (await client.delete("/v1/weights/style")).status_code == 404


async def test_weights_of_another_tenant_do_not_exist(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client)
    await made_ready(house)
    async with house.client(house.other_key) as other:
        assert (await other.get("/v1/weights")).json()["weights"] == []
        for name in ("style", "none"):
            response = await other.get(f"/v1/weights/{name}")
            removed = await other.delete(f"/v1/weights/{name}")
            used = await submit(other, loras=[{"path": f"weights:{name}"}])
            pinned = await submit(other, loras=[{"path": f"weights:{name}@{DIGEST}"}])
            theirs = await submit(other, loras=[{"path": f"weights:default/{name}"}])
            assert (response.status_code, removed.status_code) == (404, 404)
            for answer in (used, pinned, theirs):
                assert answer.status_code == 422
                assert answer.json()["detail"][0]["loc"] == ["body", "loras", 0, "path"]
                assert f"no registered weights '{name}'" in answer.json()["message"]
        assert await loras(other) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"metadata": {}, "trigger_words": ["inkline", "hill"]}, ["inkline", "hill"]),
        ({"metadata": {"modelspec.trigger_phrase": "thin ink, hill"}}, ["thin ink", "hill"]),
        ({}, []),
    ],
    ids=["checked now", "checked by an earlier version", "without"],
)
async def test_a_registered_lora_is_listed_with_its_trigger_words(
    house: House, client: httpx.AsyncClient, facts: dict[str, Any], words: list[str]
) -> None:
    await add(client)
    await made_ready(house, **facts)
    (lora,) = await loras(client)
    assert (lora["path"], lora["trigger_words"]) == ("weights:style", words)


async def test_a_request_is_stored_with_the_digest_of_its_lora(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    await add(idle_client)
    await made_ready(idle)
    answer = await submit(idle_client, prompt="x", loras=[{"path": "weights:style", "scale": 0.5}])
    stored = await idle.queue.get("default", answer.json()["request_id"])
    assert stored.input["loras"] == [{"path": f"weights:style@{DIGEST}", "scale": 0.5}]


async def test_a_digest_must_be_that_of_the_weights(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client)
    await made_ready(house)
    right = await submit(client, loras=[{"path": f"weights:style@{DIGEST}"}])
    assert right.status_code == 200
    wrong = await submit(client, loras=[{"path": f"weights:style@{'e' * 64}"}])
    assert wrong.status_code == 422
    assert "have changed" in wrong.json()["message"]


async def test_weights_that_are_not_ready_are_refused_with_their_state(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client)
    early = await submit(client, loras=[{"path": "weights:style"}])
    assert "not ready yet (waiting)" in early.json()["message"]
    (job,) = await house.weights.jobs.take(WEIGHTS, 1)
    await house.weights.refuse(job, "It is a pickle.")
    late = await submit(client, loras=[{"path": "weights:style"}])
    assert "It is a pickle." in late.json()["message"]
    assert (await add(client)).status_code == 202  # a refused name is free


async def test_published_weights_are_used_by_their_owners_name(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client)
    await made_ready(house)
    async with house.client(house.other_key) as other, house.client(house.weak_key) as weak:
        assert (
            await weak.put("/v1/weights/style/public", json={"public": True})
        ).status_code == 403
        await client.put("/v1/weights/style/public", json={"public": True})
        assert (await submit(other, loras=[{"path": "weights:default/style"}])).status_code == 200
        (listed,) = (await other.get("/v1/weights")).json()["weights"]
        assert (listed["path"], listed["source"]) == ("weights:default/style", None)
        assert [lora["path"] for lora in await loras(other)] == ["weights:default/style"]
        await client.put("/v1/weights/style/public", json={"public": False})
        assert (await submit(other, loras=[{"path": "weights:default/style"}])).status_code == 422


async def test_pages_go_on_after_published_weights_with_the_name_of_ones_own(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client)
    await made_ready(house)
    await client.put("/v1/weights/style/public", json={"public": True})
    async with house.client(house.other_key) as other:
        await add(other)
        cursor, paths = "", list[str]()
        for more in (True, False):
            page = (await other.get(f"/v1/weights?limit=1{cursor}")).json()
            paths += [entry["path"] for entry in page["weights"]]
            cursor = f"&cursor={page['next_cursor']}"
            assert page["has_more"] is more
        assert paths == ["weights:style", "weights:default/style"]


async def test_only_operators_delete_weights_of_other_tenants(
    house: House, client: httpx.AsyncClient
) -> None:
    key = str(await house.keys.create("other", scopes=frozenset({"files"})))
    async with house.client(key) as other:
        await add(other)
        assert (await other.delete("/v1/weights/style?tenant=default")).status_code == 403
        assert (await client.delete("/v1/weights/style")).status_code == 404
        assert (await client.delete("/v1/weights/style?tenant=other")).status_code == 204
        assert (await other.get("/v1/weights")).json()["weights"] == []


async def test_registered_loras_are_listed_before_uploaded_ones(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client)
    await made_ready(house)
    await upload(client, "later.safetensors", safetensors())
    assert [lora["name"] for lora in await loras(client)] == ["style", "later"]


async def test_the_limit_of_a_list_counts_only_loras(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client)
    await made_ready(house)
    await add(client, name="waiting")
    await upload(client, "later.safetensors", safetensors())
    assert [lora["name"] for lora in await loras(client, "?limit=1")] == ["style"]


async def test_a_key_for_other_endpoints_removes_no_weights(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client, endpoint="portraits")
    for patterns in (("test/deep/*",), (BASE,)):  # the last has the base, and not the endpoint
        key = await house.keys.create("default", endpoints=patterns)
        async with house.client(str(key)) as limited:
            assert (await limited.delete("/v1/weights/style")).status_code == 403
            assert (await limited.delete("/v1/weights/none")).status_code == 404
    key = await house.keys.create("default", endpoints=(BASE, "default/*"))
    async with house.client(str(key)) as limited:
        assert (await limited.delete("/v1/weights/style")).status_code == 204


async def test_an_uploaded_file_must_be_the_tenants_own(
    house: House, client: httpx.AsyncClient
) -> None:
    url = await upload(client, "mine.safetensors", safetensors())
    assert (await add(client, source=url)).status_code == 202
    async with house.client(house.other_key) as other:
        taken = await add(other, source=url)
        missing = await add(other, source=url.replace("/u/", "/u/x"))
    assert (taken.status_code, missing.status_code) == (422, 422)
    assert taken.json()["message"] == missing.json()["message"]


async def test_a_private_upload_is_registered_as_a_public_one_is() -> None:
    async with build_house(models=MODELS, files="private") as house:
        async with house.client() as client, house.client(house.other_key) as other:
            url = await upload(client, "mine.safetensors", safetensors())
            assert "/files/p/" in url
            whole = await add(client, source=url)
            parts = await add(client, name="parts", source=None, files={"a.safetensors": url})
            unsigned = url.partition("?")[0]
            taken = await add(other, source=unsigned)
            shown = await add(other, source=url)  # its owner has signed it for others
        assert (whole.status_code, parts.status_code) == (202, 202), parts.text
        assert f"http://testserver{whole.json()['source']}" == unsigned
        assert parts.json()["source"] == "1 uploaded files"
        assert (taken.status_code, shown.status_code) == (422, 202)
        assert shown.json()["source"] == url


@pytest.mark.variants(4)
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"source": None}, "source"),
        ({"files": {"a": "b"}}, "source"),
        ({"source": None, "files": {}}, "files"),
        ({"source": None, "files": {"a": "https://example.com/x"}}, "files"),
        ({"source": "/etc/passwd"}, "source"),
        ({"source": "weights:other"}, "source"),
        ({"source": "data:,x"}, "source"),
        ({"name": "../x"}, "name"),
        ({"endpoint": "Upper"}, "endpoint"),
        ({"endpoint": "realtime"}, "endpoint"),
        ({"kind": "pickle"}, "kind"),
        ({"scale": 5}, "scale"),
    ],
)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, given: dict[str, Any], field: str
) -> None:
    answer = await add(client, **given)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][:2] == ["body", field]


async def test_a_base_must_be_served(client: httpx.AsyncClient) -> None:
    assert (await add(client, base="test/nothing")).status_code == 404
    assert (await add(client, base="test/unserved")).status_code == 400


async def test_the_quota_and_the_number_of_endpoints_hold() -> None:
    settings = {"max_weights_bytes_per_tenant": 100, "max_private_endpoints_per_tenant": 1}
    async with build_house(models=MODELS, **settings) as house, house.client() as client:
        assert (await add(client, endpoint="one")).status_code == 202
        more = await add(client, "second", endpoint="two")
        assert (more.status_code, more.json()["detail"][0]["loc"]) == (422, ["body", "endpoint"])
        await made_ready(house)
        full = await add(client, "second")
        assert (full.status_code, full.json()["code"]) == (507, "storage_full")


# Private endpoints.


async def endpoint_of(house: House, client: httpx.AsyncClient, base: str = BASE) -> str:
    answer = await add(client, endpoint="portraits", base=base)
    assert answer.status_code == 202, answer.text
    await made_ready(house, "finetune", "unet/diffusion_pytorch_model.safetensors")
    return "default/portraits"


async def test_a_private_endpoint_is_served_to_its_tenant_alone(
    house: House, client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(house, client)
    assert (await submit(client, endpoint, prompt="x")).status_code == 200
    async with house.client(house.other_key) as other:
        for target in (endpoint, "default/nothing"):
            refused = await submit(other, target, prompt="x")
            assert refused.status_code == 404
            assert f"no endpoint `{target}`" in refused.json()["message"]


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models?limit=100",
        "/openapi.json",
        "/llms.txt",
        "/openai/v1/models",
        "/replicate/v1/models",
        "/v1/models?q=portraits",
    ],
)
async def test_no_list_of_another_tenant_has_a_private_endpoint(
    house: House, client: httpx.AsyncClient, path: str
) -> None:
    await endpoint_of(house, client)
    async with house.client(house.other_key) as other:
        assert "portraits" not in (await other.get(path)).text.replace("q=portraits", "")


async def test_lists_and_documents_of_its_tenant_have_it(
    house: House, client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(house, client)
    for path in (
        f"/v1/models?endpoint_id={endpoint}",
        f"/openapi.json?endpoint_id={endpoint}",
        "/openai/v1/models",
        "/replicate/v1/models/default/portraits",
    ):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert "portraits" in answer.text


async def test_removed_weights_take_their_endpoint_with_them(
    house: House, client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(house, client)
    await client.delete("/v1/weights/style")
    assert (await submit(client, endpoint, prompt="x")).status_code == 404


async def test_weights_stay_while_requests_of_their_endpoint_wait_unless_by_force(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(idle, idle_client)
    await idle.queue.submit(new(endpoint=endpoint, tenant="default"))
    kept = await idle_client.delete("/v1/weights/style")
    assert (kept.status_code, kept.json()["code"]) == (400, "request_active")
    assert "`?force=true`" in kept.json()["message"]
    assert (await idle_client.get("/v1/weights/style")).status_code == 200
    assert (await idle_client.delete("/v1/weights/style?force=true")).status_code == 204
    assert (await submit(idle_client, endpoint, prompt="x")).status_code == 404


async def test_a_private_endpoint_is_its_base_with_other_files(
    house: House, client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(house, client)
    view = house.services.catalog.of_tenant("default")
    private, base = view.get(endpoint), view.get(BASE)
    assert private.endpoint.family == base.endpoint.family
    assert house.services.pool_of(private) == house.services.pool_of(base)
    assert private.endpoint.options["replaced_files"] == {
        "unet": {"diffusion_pytorch_model.safetensors": DIGEST}
    }
    assert private.endpoint.digest != base.endpoint.digest


async def test_a_tenant_whose_name_begins_other_ids_gets_no_endpoint(house: House) -> None:
    for tenant in ("test", "fal-ai", "v1"):
        key = str(await house.keys.create(tenant))
        async with house.client(key) as client:
            answer = await add(client, endpoint="portraits")
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "endpoint"]


async def test_a_key_for_some_endpoints_registers_for_these_only(house: House) -> None:
    key = str(await house.keys.create("default", endpoints=(BASE,)))
    async with house.client(key) as client:
        assert (await add(client, base="fal-ai/flux/schnell")).status_code == 403
        assert (await add(client, endpoint="portraits")).status_code == 403
        assert (await add(client)).status_code == 202


# The operator's policy.


async def test_blocked_repositories_and_digests_are_refused_wherever_they_are_used(
    house: House, client: httpx.AsyncClient
) -> None:
    await add(client, source="Owner/Name/x.safetensors")
    await made_ready(house)
    rules = (
        SafetyRule(loras=frozenset({"owner/name"})),
        SafetyRule(lora_digests=(DIGEST,)),
        SafetyRule(endpoints=("other/*",), lora_digests=(DIGEST,)),
    )
    for rule, status in zip(rules, (422, 422, 200), strict=True):
        house.services.safety = SafetyPolicy((rule,))
        answer = await submit(client, loras=[{"path": "weights:style"}])
        assert answer.status_code == status
    house.services.safety = SafetyPolicy(())


async def test_a_private_endpoint_is_under_the_rules_of_its_base(
    house: House, client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(house, client)
    house.services.safety = SafetyPolicy((SafetyRule((), (BASE,), lora_digests=(DIGEST,)),))
    refused = await submit(client, endpoint, prompt="x")
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["type"] == "content_policy_violation"


async def test_so_are_its_sessions(house: House, client: httpx.AsyncClient) -> None:
    endpoint = await endpoint_of(house, client)
    house.services.safety = SafetyPolicy((SafetyRule((), (BASE,), outputs=checked("flag")),))
    async with connect(house, f"/{endpoint}/realtime") as socket:
        socket.send(prompt="a circle")
        assert "cannot be checked" in str(await socket.hear())
    assert house.replica.drawn == []


async def test_ids_of_the_hub_are_refused_in_requests_if_the_token_is_not_shared() -> None:
    async with build_house(models=MODELS, share_hub_token=False) as house, house.client() as client:
        refused = await submit(client, loras=[{"path": "owner/name"}])
        assert refused.status_code == 422
        assert "POST /v1/weights" in refused.json()["message"]
        web = await submit(client, loras=[{"path": "https://example.com/a.safetensors"}])
        assert web.status_code == 200


async def test_a_price_of_the_base_is_that_of_its_private_endpoints(
    house: House, client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(house, client)
    config = house.services.config
    price = Price(PriceUnit.IMAGE, Decimal("0.02"), "EUR")
    billing = config.billing.model_copy(update={"prices": {BASE: price}})
    house.services.config = config.model_copy(update={"billing": billing})
    entry = house.services.catalog.of_tenant("default").get(endpoint)
    assert house.services.price_of(entry) == price
    assert house.services.price_of(replace(entry, base="")) is None


async def test_a_private_endpoint_has_the_limits_of_its_base_or_its_own() -> None:
    base_limit, two = {"max_waiting": 1}, {"max_waiting": 2}
    endpoints = {BASE: base_limit, "default/other": two}
    known = make_catalog("default/portraits", "default/other")
    settings: dict[str, Any] = {"models": MODELS, "documented": known, "endpoint_limits": endpoints}
    async with build_house(replica=False, **settings) as house:
        async with house.client() as client:
            for name, most in (("portraits", 1), ("other", 2)):
                await add(client, name, endpoint=name)
                await made_ready(house)
                sent = [await submit(client, f"default/{name}", seed=n) for n in range(3)]
                statuses = [answer.status_code for answer in sent]
                assert statuses == [200] * most + [429] * (3 - most), sent[-1].text
            assert (await submit(client, seed=1)).status_code == 200  # of the base itself


@pytest.mark.long
async def test_a_private_endpoint_can_be_kept_warm_in_the_pool_of_its_base(
    house: House, client: httpx.AsyncClient
) -> None:
    endpoint = await endpoint_of(house, client)
    wish = {"endpoint_id": endpoint, "replicas": 1}
    target = (await client.post("/v1/warm", json=wish)).json()
    assert (target["endpoint_id"], target["pool"]) == (endpoint, "studio")
    assert target["problems"] == []
    (own,) = (await client.get("/v1/weights")).json()["weights"]
    await client.delete(f"/v1/weights/{own['name']}")
    await house.services.entries.refresh()
    (gone,) = (await client.get("/v1/warm")).json()["warm_targets"]
    assert gone["problems"] == [f"The catalogue has no endpoint {endpoint}."]
