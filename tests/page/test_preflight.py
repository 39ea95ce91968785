"""What a real model needs is the same on all surfaces: the API, the command line with and without a
running Darkroom, the doctor, the start, and the page. Over a hub on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from serve_app import preflight
from serve_app.catalog.catalog import load
from serve_app.cli.serve import notices
from serve_app.ingress.services.preflights import Preflights
from serve_app.settings import Config, PoolConfig
from tests.ingress.house import DEMO
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.reader import Reader
from tests.weights.conftest import COMMIT, NAME, write_repository
from tests.weights.hub_server import HubServer, serving

SMALL, LARGE = "house/small", "house/large"
CATALOGUE = f"""
built_in: false
endpoints:
  {LARGE}:
    family: flux
    schema: flux-text-to-image
    display_name: House Large
    licence: House Licence 2
    weights: {{hub: {NAME}, revision: {COMMIT}}}
    demo: {{weights: flux}}
    defaults: {{num_inference_steps: 4, guidance_scale: 3.5}}
    recipes:
      - {{memory_gb: 24, precision: bfloat16, hot: [unet, vae]}}
  {SMALL}:
    family: generic
    schema: open
    display_name: House Small
    licence: House Licence 1
    weights: {{hub: {NAME}, revision: {COMMIT}}}
    cpu: {{seconds: 12}}
"""
POOLS = {"studio": PoolConfig(families=("flux", "generic"), num_gpus=0)}

Said = Mapping[str, str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    server.add(NAME, COMMIT, write_repository(tmp_path / "published"))
    with serving(server):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> Config:
    (tmp_path / "models.yaml").write_text(CATALOGUE)
    (tmp_path / "data").mkdir()
    for name, value in {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "",
        "DARKROOM_DATA_DIR": str(tmp_path / "data"),
        "DARKROOM_MODELS": str(tmp_path / "models.yaml"),
        "DARKROOM_WEIGHTS_DIR": str(tmp_path / "store"),
        "DARKROOM_GPUS": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return Config()


@pytest.fixture
def darkroom(config: Config) -> Iterator[PageDarkroom]:
    catalog = load(config.models.models, demo=True, demo_dir=DEMO, families=("flux", "generic"))
    with page_darkroom(catalog=catalog, painting=False, pools=POOLS) as served:
        services = served.house.services
        services.preflights = Preflights(
            partial(preflight.downloads, config, within_s=5.0),
            partial(preflight.this_machine, config),
            lambda: 1,
            services.clock,
        )
        directory = config.server.data_dir
        (directory / "run.json").write_text(json.dumps({"url": served.url}))
        (directory / "api_key").write_text(served.key)
        yield served


def command(*words: str) -> str:
    """Output of a command. In a process of its own, because Playwright's loop runs in this one."""
    ran = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", *words], capture_output=True, text=True, check=False
    )
    return ran.stdout


def on_the_api(page: Page, darkroom: PageDarkroom) -> dict[str, Said]:
    answer = page.request.get(
        f"{darkroom.url}/v1/models?expand=preflight",
        headers={"authorization": f"Key {darkroom.key}"},
    )
    models = answer.json()["models"]
    return {model["endpoint_id"]: model["darkroom"]["preflight"]["sentences"] for model in models}


def on_the_page(page: Page, darkroom: PageDarkroom, endpoint: str) -> list[str]:
    page.goto(f"{darkroom.url}/#view=models&id={endpoint}")
    region = page.get_by_role("region", name="What the real model needs")
    expect(region.locator("dd").first).to_be_visible()
    return [text.replace("`", "") for text in region.locator("dd").all_inner_texts()]


def pull_models(*options: str) -> dict[str, Any]:
    downloads = json.loads(command("models", "pull", "--json", *options))["downloads"]
    return {
        name: answer["sentences"]
        for download in downloads
        for name, answer in download["endpoints"].items()
    }


@pytest.mark.variants(1)
@pytest.mark.parametrize("state", ["gives", "gated", "offline"])
def test_every_surface_says_the_same(
    hub: HubServer,
    config: Config,
    darkroom: PageDarkroom,
    page: Page,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    if state == "gated":
        hub.gated.add(NAME)
    if state == "offline":
        monkeypatch.setenv("DARKROOM_OFFLINE", "1")
        config = Config()
        darkroom.house.services.preflights = Preflights(
            partial(preflight.downloads, config),
            partial(preflight.this_machine, config),
            lambda: 1,
            darkroom.house.services.clock,
        )
    preflights = on_the_api(page, darkroom)
    assert preflights[LARGE]["served"] == "a tiny demo model in place of House Large"
    assert preflights[LARGE]["fits"].startswith("no: it needs a GPU with 24 GB or more")
    assert preflights[SMALL]["fits"] == "yes, without a GPU"
    words = {
        "gives": "the hub gives it",
        "gated": "is gated: accept its licence at",
        "offline": "not asked: this machine is set to be offline",
    }
    assert words[state] in preflights[SMALL]["access"]

    Reader(page, darkroom).enter(SMALL)
    for endpoint, sentences in preflights.items():
        assert on_the_page(page, darkroom, endpoint) == [
            line.replace("`", "") for line in sentences.values()
        ]
        shown = command("models", "show", endpoint)
        for sentence in sentences.values():
            assert sentence in shown

    told: list[str] = []
    notices.print_real_model(config, told.append)
    start = "\n".join(told)
    for subject in ("licence", "download", "time"):
        assert preflights[SMALL][subject] in start
    assert (preflights[SMALL]["access"] in start) is (state != "gives")

    doctor = command("doctor")
    assert "real models: 1 of 2 fit this machine (house/small)" in doctor
    assert ("hub: not checked" in doctor) is (state == "offline")
    if state == "gives":
        for endpoint, sentences in pull_models("-y").items():
            for subject in ("licence", "fits", "download", "access", "time"):
                assert sentences.get(subject) == preflights[endpoint].get(subject), (
                    endpoint,
                    subject,
                )
