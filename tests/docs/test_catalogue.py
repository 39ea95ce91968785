"""The page of the catalogue says what is in the file."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from diffusers import AudioLDM2Pipeline, CogVideoXPipeline

from deployments.executors.registry import EXECUTORS
from deployments.families.audio_io import AudioOptions, audio_options
from deployments.families.call_mapping import CallMapping, parameters
from deployments.families.options import PIPELINE_OPTIONS, REQUEST_OPTIONS
from deployments.families.registry import FAMILIES
from deployments.families.video import VideoFamily
from serve_app.catalog.catalog import BUILT_IN, load
from serve_app.catalog.entries import EntryOrigin
from serve_app.catalog.fal_types import fal_client, fal_ids
from serve_app.catalog.schema.registry import SCHEMAS
from serve_app.catalog.source import EndpointSource, RecipeSource
from tests.docs.pages import DOCS, ROOT, blocks, code, table

PAGE = DOCS / "reference" / "catalogue.md"
GUIDE = DOCS / "how-to" / "add-a-model.md"
TUTORIAL = DOCS / "tutorials" / "serve-your-fine-tune.md"
DEMO = ROOT / "deployments" / "demo"


def test_the_endpoints_are_documented() -> None:
    written = yaml.safe_load(BUILT_IN.read_text())["endpoints"]
    documented = {
        endpoint: (code(family)[0], code(weights)[0], licence, (code(demo) or [None])[0])
        for endpoints, family, weights, licence, demo in table(PAGE, "endpoints")
        for endpoint in code(endpoints)
    }
    assert documented == {
        endpoint_id: (
            entry["family"],
            entry["weights"]["hub"],
            entry["licence"],
            entry.get("demo", {}).get("weights"),
        )
        for endpoint_id, entry in written.items()
    }


def test_the_readme_counts_the_endpoints_right() -> None:
    count = len(yaml.safe_load(BUILT_IN.read_text())["endpoints"])
    assert f"| {count} endpoints, " in (ROOT / "README.md").read_text()


OF_VIDEOS_AND_AUDIOS = {
    "fal-ai/hunyuan-video",
    "fal-ai/hunyuan-video-image-to-video",
    "fal-ai/kokoro/american-english",
    "fal-ai/ltx-2/text-to-video",
    "fal-ai/ltx-video",
    "fal-ai/ltx-video-13b-distilled",
    "fal-ai/ltx-video/image-to-video",
    "fal-ai/stable-audio",
    "fal-ai/stable-audio-25/text-to-audio",
    "fal-ai/wan-i2v",
    "fal-ai/wan-t2v",
    "fal-ai/wan/v2.2-5b/image-to-video",
    "fal-ai/wan/v2.2-5b/text-to-video",
    "fal-ai/wan/v2.2-a14b/image-to-video/turbo",
    "fal-ai/wan/v2.2-a14b/text-to-video",
    "fal-ai/whisper",
}
"""Those of fal's whose fields were looked at."""


def test_an_endpoint_of_videos_or_audio_files_that_is_not_here_has_its_reason() -> None:
    here = yaml.safe_load(BUILT_IN.read_text())["endpoints"].keys()
    absent = {code(endpoint)[0] for endpoint, _ in table(PAGE, "endpoint of fal's")}
    assert absent == OF_VIDEOS_AND_AUDIOS - here
    assert absent <= fal_ids()


def test_the_release_of_fals_client_is_documented() -> None:
    assert f"`@fal-ai/client` {fal_client().version} declares" in PAGE.read_text()


@pytest.mark.parametrize(
    ("column", "source"), [("key of an entry", EndpointSource), ("key of a recipe", RecipeSource)]
)
def test_every_key_is_documented(column: str, source: type[EndpointSource | RecipeSource]) -> None:
    documented = {key for cells in table(PAGE, column) for key in code(cells[0])}
    assert documented == {field.alias or name for name, field in source.model_fields.items()}


def test_the_schemas_are_documented() -> None:
    assert {name for cells in table(PAGE, "schema") for name in code(cells[0])} == SCHEMAS.keys()


def test_the_example_is_a_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(blocks(TUTORIAL, "yaml")[0].text)
    (entry,) = [
        candidate
        for candidate in load(path, demo=True, demo_dir=DEMO, families={"flux"})
        if candidate.origin is EntryOrigin.FILE
    ]
    assert not entry.missing
    assert len(entry.endpoint.recipes) == 2
    assert entry.schema.validate({"prompt": "x"})[0]["num_inference_steps"] == 20


def test_the_example_of_videos_is_a_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        next(block.text for block in blocks(GUIDE, "yaml") if "cogvideox" in block.text)
    )
    (entry,) = [
        candidate
        for candidate in load(path, demo=False, demo_dir=DEMO, families=FAMILIES)
        if candidate.origin is EntryOrigin.FILE
    ]
    assert not entry.missing
    fields = entry.schema.validate({"prompt": "x"})[0]
    call = VideoFamily().prepare(entry.endpoint, fields, _CogVideoX(), 1)
    assert call.output_facts["video"].form.num_frames == 49
    assert call.arguments.keys() >= {"guidance_scale", "num_frames"}


class _CogVideoX(CogVideoXPipeline):
    """Without weights; what the family asks of it."""

    def __init__(self) -> None:
        self.vae_scale_factor_spatial, self.vae_scale_factor_temporal = 8, 4


def test_the_example_of_audio_files_is_a_catalogue_and_its_options_are_documented(
    tmp_path: Path,
) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        next(block.text for block in blocks(GUIDE, "yaml") if "audioldm2" in block.text)
    )
    (entry,) = [
        candidate
        for candidate in load(path, demo=False, demo_dir=DEMO, families=FAMILIES)
        if candidate.origin is EntryOrigin.FILE
    ]
    assert not entry.missing
    options = audio_options(entry.endpoint)
    assert (options.length, options.most_seconds) == ("audio_length_in_s", 30)
    assert options.arguments() <= parameters(AudioLDM2Pipeline)
    documented = {name for cells in table(PAGE, "key of `audio_format`") for name in code(cells[0])}
    assert documented == {field.name for field in fields(AudioOptions)}


def test_the_options_of_the_generic_family_are_documented() -> None:
    documented = {name for cells in table(PAGE, "option") for name in code(cells[0])}
    assert documented == CallMapping.model_fields.keys() - {
        "file_arguments",
        "settings",
    } | {"dtype"}
    amendments = {name for cells in table(PAGE, "amendment") for name in code(cells[0])}
    assert amendments | {"dtype"} == {*PIPELINE_OPTIONS, *REQUEST_OPTIONS}


@pytest.mark.parametrize("page", ["serve-comfyui-workflows", "use-hosted-providers"])
def test_the_entries_of_executors_are_catalogues(tmp_path: Path, page: str) -> None:
    text = (DOCS / "how-to" / f"{page}.md").read_text()
    examples = [
        block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "schema:" in block
    ]
    assert examples
    path = tmp_path / "models.yaml"
    for example in examples:
        path.write_text(example)
        load(path, demo=False, demo_dir=DEMO, families=EXECUTORS)
