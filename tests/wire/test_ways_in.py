"""Programs that know nothing of Darkroom, in a shell that `darkroom env` has set up, or with fal's
names pointing here."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.cli.commands import environment
from serve_app.cli.connection.installation import Installation
from tests.node import node, packages
from tests.wire.entered import Shell, Ways, start_gateway, write_installation
from tests.wire.media import MEDIA
from tests.wire.served import serve

pytestmark = pytest.mark.wire

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
JAVASCRIPT = HERE / "javascript"

HUGGING_FACE = """
import os, sys
from huggingface_hub import InferenceClient
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers._common import HARDCODED_MODEL_INFERENCE_MAPPING

path, key = sys.argv[1], os.environ["FAL_KEY"]
FLUX = "black-forest-labs/FLUX.1-schnell"  # which endpoint that is, the hub would say
HARDCODED_MODEL_INFERENCE_MAPPING["fal-ai"] = {
    FLUX: InferenceProviderMapping(
        provider="fal-ai", hf_model_id=FLUX, providerId="fal-ai/flux/schnell",
        status="live", task="text-to-image",
    )
}
client = InferenceClient(provider="fal-ai", api_key=key)
client.text_to_image("a JPEG", model=FLUX, width=512, height=512).save(path)
"""


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Installation, Ways]]:
    """Data directory as `darkroom serve` leaves it, with its processes running."""
    folder = tmp_path_factory.mktemp("data")
    with serve() as address, start_gateway(address.url, folder) as ways:
        yield write_installation(address, ways, folder), ways


@pytest.fixture(scope="module", params=["proxy", "hosts", "aliases"])
def python(
    request: pytest.FixtureRequest, installation: tuple[Installation, Ways]
) -> tuple[Shell, dict[str, Any]]:
    used = Shell.of(*installation, request.param)
    return used, used.run(sys.executable, HERE / "unmodified.py")


@pytest.mark.variants(1)
def test_python_runs_submits_and_subscribes(python: tuple[Shell, dict[str, Any]]) -> None:
    used, results = python
    assert results["run"].get("value") == 1, results["run"]
    assert results["subscribe"]["value"] == 2
    assert results["submit"]["value"].startswith(f"{used.queue}/test/probe/requests/")
    assert results["cancel"]["value"] == "client_cancelled"


@pytest.mark.variants(1)
def test_python_uploads_here(python: tuple[Shell, dict[str, Any]]) -> None:
    _, results = python
    if "upload" in results:  # with host names it goes to fal; `darkroom env` warns about it
        assert "/files/u/" in results["upload"].get("value", ""), results["upload"]


def test_python_streams(python: tuple[Shell, dict[str, Any]]) -> None:
    _, results = python
    assert results["stream"].get("value") == 4, results["stream"]


def test_python_draws_in_realtime(python: tuple[Shell, dict[str, Any]]) -> None:
    used, results = python
    answered = [[0, "r-0"], [1, "r-1"]]
    assert results["realtime"].get("value") == answered, results["realtime"]
    with_token = results.get("realtime with a token")
    if "FAL_RUN_HOST" in used.variables:  # the token's call would go to fal, as uploads do
        assert with_token is None
    else:
        assert (with_token or {}).get("value") == answered, with_token


@pytest.mark.long
@pytest.mark.parametrize("mode", ["proxy", "aliases"])
def test_javascript_streams_and_draws_in_realtime(
    mode: str, installation: tuple[Installation, Ways]
) -> None:
    packages(JAVASCRIPT)
    preload = ("--require", JAVASCRIPT / "aliases.cjs") if mode == "aliases" else ()
    program = JAVASCRIPT / "unmodified_realtime.mjs"
    results = Shell.of(*installation, mode).run(node(), *preload, program)
    assert results["stream"]["value"] == 5
    assert results["stream with a token"]["value"] == 6
    assert results["realtime"]["value"] == [[7, "r-7"], [8, "r-8"]]


@pytest.fixture(scope="module", params=["proxy", "aliases"])
def javascript(
    request: pytest.FixtureRequest,
    installation: tuple[Installation, Ways],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    packages(JAVASCRIPT)
    setup = tmp_path_factory.mktemp("setup") / "nothing.mjs"
    setup.write_text("")
    used = Shell.of(*installation, request.param)
    preload: Sequence[str | Path] = ()
    if request.param == "aliases":
        preload = ("--require", JAVASCRIPT / "aliases.cjs")
    return used.run(node(), *preload, JAVASCRIPT / "calls.mjs", setup)


@pytest.mark.long
def test_javascript_runs_submits_and_subscribes(javascript: dict[str, Any]) -> None:
    assert javascript["run"].get("value", {}).get("echo") == {"a": "é"}, javascript["run"]
    assert javascript["subscribe"]["value"]["last"] == "COMPLETED"
    assert javascript["streamed status"]["value"]["echo"] == 10
    assert javascript["cancel"]["error"]["status"] == 499
    assert javascript["wrong field"]["error"]["name"] == "ValidationError"


def test_javascript_uploads_here(javascript: dict[str, Any]) -> None:
    assert javascript["upload"].get("value", {}).get("content") == "abc", javascript["upload"]
    assert javascript["nested upload"]["value"]["two"] == "two"


def test_hugging_face_s_inference_client_draws(
    installation: tuple[Installation, Ways], tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    Shell.of(*installation, "proxy").run(sys.executable, "-W", "ignore", "-c", HUGGING_FACE, image)
    with Image.open(image) as drawn:
        assert drawn.size == (8, 8)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Shell for programs that use models of several kinds."""
    packages(JAVASCRIPT)
    folder = tmp_path_factory.mktemp("media")
    with serve(catalog=MEDIA) as address, start_gateway(address.url, folder) as ways:
        yield Shell.of(write_installation(address, ways, folder), ways, "proxy")


def test_the_ai_sdk_s_provider_for_fal_makes_videos_speaks_and_transcribes(media: Shell) -> None:
    results = media.run(node(), JAVASCRIPT / "ai_sdk_fal_media.mjs")
    assert results["video"]["value"] == "an MP4"
    assert results["speech"]["value"] == "RIFF"
    heard = results["transcript"]["value"]
    assert (heard["text"], heard["language"]) == ("Good morning.", "en")
    assert heard["segments"] == [{"text": "Good morning.", "startSecond": 0, "endSecond": 1.25}]


def test_tanstack_ai_draws_speaks_transcribes_and_makes_videos(media: Shell) -> None:
    results = media.run(node(), JAVASCRIPT / "tanstack.mjs")
    assert results["images"]["value"] == ["image/jpeg", "image/jpeg"]
    assert results["speech"]["value"] == "RIFF"
    assert results["transcript"]["value"] == "Good morning."
    assert results["video"]["value"] == "an MP4"


def test_fal_s_proxies_for_web_servers_keep_the_key_on_the_server(media: Shell) -> None:
    results = media.run(node(), JAVASCRIPT / "server_proxies.mjs")
    got = {name: result["value"] for name, result in results.items()}
    right = {"run": 2, "queued": 2, "refused": ["prompt", "num_images"]}
    assert got == dict.fromkeys(("express", "hono", "svelte", "remix"), right)


def test_other_https_of_that_shell_is_passed_on(installation: tuple[Installation, Ways]) -> None:
    # This machine may be offline, so the test looks at the proxy's own response.
    place, ways = installation
    variables = environment.variables(place, "proxy")
    context = ssl.create_default_context(cafile=variables["SSL_CERT_FILE"])
    with httpx.Client(verify=context, proxy=ways.proxy_url, trust_env=False) as client:
        with pytest.raises(httpx.ProxyError, match="502"):
            client.get("https://nowhere.invalid/")
        with pytest.raises(httpx.ProxyError, match="403"):
            client.get(ways.tls_url)
