"""Entries of hosted providers, and of endpoints that name secrets: mistakes are sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.entries import EntryOrigin
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import EndpointNotFound, EndpointNotServed, Misconfigured
from serve_app.domain.executors.secrets import name_problem
from serve_app.options.hosted import HostedEndpoint


def endpoint(family: str = "fal", secrets: Any = ("FAL_KEY",), **hosted: Any) -> Endpoint:
    fields = {"endpoint": "fal-ai/veo3", **hosted}
    options = {"secrets": secrets, "hosted": fields}
    return Endpoint("a/b", family, Weights(""), "json", options=options)


def test_an_entry_has_the_providers_address_by_default() -> None:
    hosted = HostedEndpoint.of(endpoint())
    assert (hosted.url, hosted.history_url) == ("https://queue.fal.run", "https://api.fal.ai")
    assert (hosted.secret, hosted.on_unknown) == ("FAL_KEY", "fail")
    assert hosted.account == "fal https://queue.fal.run"
    darkroom = HostedEndpoint.of(endpoint("darkroom", url="http://10.0.0.5:8000/"))
    assert darkroom.url == darkroom.history_url == "http://10.0.0.5:8000"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (endpoint(secrets=[]), "`options.secrets` must name one secret"),
        (endpoint(secrets=["A", "B"]), "`options.secrets` must name one secret"),
        (endpoint(endpoint=""), "options.hosted.endpoint: it must be the provider's id"),
        (endpoint(urll="x"), "options.hosted.urll: unknown key `urll`; did you mean `url`?"),
        (endpoint(url="ftp://x"), "options.hosted.url: it must be an http or https URL"),
        (endpoint("darkroom"), "`options.hosted.url` must be the URL of the provider"),
        (
            endpoint(on_unknown="maybe"),
            "hosted.on_unknown: Input should be 'fail' or 'repeat'",
        ),
        (
            endpoint(grace_s=-1),
            "hosted.grace_s: Input should be greater than or equal to 0",
        ),
        (endpoint(busy_s="1h"), "options.hosted.busy_s: Input should be a valid number"),
        (
            endpoint("openai", makes="songs"),
            "hosted.makes: Input should be 'images' or 'videos'",
        ),
        (endpoint(own_key="yes"), "options.hosted.own_key: Input should be a valid boolean"),
        (Endpoint("a/b", "fal", Weights(""), "json"), "options.hosted.endpoint: Field required"),
    ],
)
def test_a_mistake_in_an_entry_is_named(entry: Endpoint, words: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # its words are checked
        HostedEndpoint.of(entry)
    assert words in str(raised.value)


def test_names_of_secrets_are_names_of_variables_that_no_process_needs() -> None:
    assert name_problem("FAL_KEY") is None
    for name in ("", "fal", "A" * 65, "A-B", "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME"):
        assert name_problem(name) is not None, name


PASSED = """
built_in: false
endpoints:
  "fal-ai/*":
    family: fal
    schema: json
    options: &options
      secrets: [FAL_KEY]
      hosted: {endpoint: "*"}
      input_schema: {type: object, additionalProperties: true}
      output_schema: {type: object}
  "fal-ai/kling-video/*": {family: fal, schema: json, pool: films, options: *options}
  fal-ai/flux/schnell: {family: probe, schema: open}
"""


def catalog(folder: Path, text: str = PASSED) -> Catalog:
    file = folder / "models.yaml"
    file.write_text(text)
    return load(file, demo=False, demo_dir=folder)


def test_endpoints_of_fals_without_an_entry_are_passed_through(tmp_path: Path) -> None:
    loaded = catalog(tmp_path)
    passed = loaded.get("fal-ai/flux/dev")
    assert passed.endpoint.id == "fal-ai/flux/dev"
    assert HostedEndpoint.of(passed.endpoint).endpoint == "fal-ai/flux/dev"
    assert loaded.get("fal-ai/flux/dev") is passed
    assert loaded.validate("fal-ai/flux/dev", {"prompt": "x"}).input == {"prompt": "x"}
    assert loaded.get("fal-ai/flux/schnell").endpoint.family == "probe", "it has an entry"
    film = "fal-ai/kling-video/v2/master/text-to-video"
    assert (loaded.get(film).pool, loaded.get("fal-ai/flux/dev").pool) == ("films", "")
    digests = {loaded.get(endpoint_id).endpoint.digest for endpoint_id in (film, "fal-ai/flux/dev")}
    assert len(digests) == 2


def test_a_built_in_endpoint_that_is_not_served_here_is_passed_through(tmp_path: Path) -> None:
    """It is the entry of nobody here. Another one that is not served says why."""
    loaded = catalog(tmp_path)
    not_served = {
        name: replace(loaded.get("fal-ai/flux/schnell"), missing="It has no GPU.", origin=origin)
        for name, origin in (
            ("fal-ai/flux/dev", EntryOrigin.BUILT_IN),
            ("fal-ai/flux/schnell", EntryOrigin.FILE),
        )
    }
    also = Catalog({**loaded._given, **not_served}, fal_ids=loaded._fal_ids)
    assert also.get("fal-ai/flux/dev").endpoint.family == "fal"
    with pytest.raises(EndpointNotServed, match="It has no GPU"):
        also.get("fal-ai/flux/schnell")
    without = Catalog(not_served, fal_ids=loaded._fal_ids)
    with pytest.raises(EndpointNotServed, match="It has no GPU"):
        without.get("fal-ai/flux/dev")


def test_only_endpoints_that_fals_client_knows_are_passed_through(tmp_path: Path) -> None:
    loaded = catalog(tmp_path)
    for unknown in ("fal-ai/no-such-model", "fal-ai/*", "fal-ai/", "other/flux/dev"):
        with pytest.raises(EndpointNotFound):
            loaded.get(unknown)
    assert [entry.endpoint.id for entry in loaded] == ["fal-ai/flux/schnell"]


def test_views_of_tenants_and_a_new_catalogue_pass_through_as_well(tmp_path: Path) -> None:
    loaded = catalog(tmp_path)
    own = replace(loaded.get("fal-ai/flux/schnell"), tenant="ann")
    own = replace(own, endpoint=replace(own.endpoint, id="ann/style"))
    view = loaded.with_private([own]).of_tenant("ann")
    assert view.get("ann/style")
    assert view.get("fal-ai/flux/dev")
    live = Catalog({})
    live.become(loaded)
    assert live.find_any("fal-ai/flux/dev") is not None
    live.become(Catalog({}))
    assert live.find_any("fal-ai/flux/dev") is None


@pytest.mark.parametrize(
    "text",
    [
        PASSED.replace('hosted: {endpoint: "*"}', "hosted: {endpoint: fal-ai/x}"),
        PASSED.replace('"fal-ai/*"', "fal-ai/x"),
        PASSED.replace("family: fal\n", "family: replicate\n"),
    ],
)
def test_an_entry_for_several_endpoints_is_fals_or_a_mistake(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured, match="an entry for several endpoints"):
        catalog(tmp_path, text)
