"""Examples of endpoints, and what demo models can make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.errors import InvalidInput, Misconfigured

DEMO = Path(__file__).parents[2] / "deployments" / "demo"
IMAGES = Path(__file__).parents[2] / "serve_app" / "page" / "examples"
SOUND = "fal-ai/stable-audio"
OWN = """
built_in: false
endpoints:
  house/portraits:
    family: flux
    schema: flux-text-to-image
    weights: {directory: /weights}
    examples:
      - input: {promt: a face}
"""


@pytest.fixture(scope="module")
def demos() -> Catalog:
    return load(None, demo=True, demo_dir=DEMO)


def test_a_demo_model_allows_no_audio_that_is_longer_than_what_it_makes(demos: Catalog) -> None:
    parts = DEMO / "stable-audio"
    sizes = {part: json.loads((parts / part / "config.json").read_text()) for part in (
        "transformer", "vae",
    )}  # fmt: skip
    ratio = 1
    for factor in sizes["vae"]["downsampling_ratios"]:
        ratio *= factor
    longest_s = sizes["transformer"]["sample_size"] * ratio / sizes["vae"]["sampling_rate"]
    fields = demos.get(SOUND).schema.json_schema()["properties"]
    assert fields["seconds_total"]["maximum"] <= longest_s
    assert fields["seconds_start"]["maximum"] < longest_s
    with pytest.raises(InvalidInput, match="seconds_total"):
        demos.validate(SOUND, {"prompt": "a siren", "seconds_total": 10})


def test_the_real_model_keeps_its_own_bounds() -> None:
    real = load(None, demo=False, demo_dir=DEMO).get(SOUND)
    assert real.schema.json_schema()["properties"]["seconds_total"]["maximum"] == 47
    assert real.about_demo == ""


def test_each_served_demo_model_says_what_it_makes_and_has_examples_that_are_valid(
    demos: Catalog,
) -> None:
    served = [demo for demo in demos if demo.demo and not demo.missing]
    assert served
    for entry in served:
        assert entry.about_demo.endswith(".")
        assert len(entry.examples) >= 3
        files = {
            name: "https://example.org/a.png"
            for name in entry.schema.json_schema()["required"]
            if name.endswith("_url")
        }
        for example in entry.examples:
            demos.validate(entry.endpoint.id, files | example.input)


def test_images_of_examples_ship_with_the_page_and_are_small(demos: Catalog) -> None:
    shown = {
        file["url"]
        for entry in demos
        for example in entry.examples
        for value in (example.output or {}).values()
        for file in (value if isinstance(value, list) else [value])
    }
    assert {url.rpartition("/")[2] for url in shown} == {image.name for image in IMAGES.iterdir()}
    for path in IMAGES.iterdir():
        assert path.stat().st_size <= 15_000, "render it again: scripts/example_images"


def test_examples_of_real_models_are_valid_too() -> None:
    real = load(None, demo=False, demo_dir=DEMO)
    shown = [(entry.endpoint.id, example) for entry in real for example in entry.examples]
    assert shown
    for endpoint_id, example in shown:
        real.validate(endpoint_id, example.input)


def test_an_example_with_a_field_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(OWN)
    with pytest.raises(Misconfigured, match="promt"):
        load(path, demo=False, demo_dir=DEMO)


TOKENIZERS = {
    "fal-ai/flux/schnell": "flux/tokenizer_2",
    "fal-ai/wan/v2.2-5b/text-to-video": "wan/tokenizer",
    SOUND: "stable-audio/tokenizer",
}


@pytest.mark.parametrize("endpoint", TOKENIZERS)
def test_the_words_of_a_demo_model_are_those_of_its_tokenizer(
    demos: Catalog, endpoint: str
) -> None:
    tokenizer = json.loads((DEMO / TOKENIZERS[endpoint] / "tokenizer.json").read_text())
    pieces = {piece for piece, _ in tokenizer["model"]["vocab"]}
    vocabulary = {piece.removeprefix("▁") for piece in pieces if piece.startswith("▁")}
    known = [word for words in demos.get(endpoint).demo_words.values() for word in words]
    assert len(known) == len(set(known))
    assert set(known) == vocabulary - {"boxs"}


def test_each_demo_model_knows_all_words_of_its_examples(demos: Catalog) -> None:
    for entry in demos:
        if entry.demo and not entry.missing:
            for example in entry.examples:
                assert entry.endpoint.unknown_words(example.input["prompt"]) == [], (
                    entry.endpoint.id
                )


def test_words_that_a_demo_model_does_not_know_are_told_in_the_log(demos: Catalog) -> None:
    warnings = demos.validate("fal-ai/flux/dev", {"prompt": "A Cat on a red sofa, cat!"}).warnings
    assert warnings[-1] == "The demo model does not know: cat, sofa."
    many = demos.validate("fal-ai/flux/dev", {"prompt": "some cat and seven more dogs sat there"})
    assert many.warnings[-1].endswith("does not know: some, cat, seven, more, dogs and 2 more.")
    (demo,) = demos.validate("fal-ai/flux/dev", {"prompt": "a red circle"}).warnings
    assert "tiny demo model" in demo


def test_a_real_model_is_asked_for_anything() -> None:
    real = load(None, demo=False, demo_dir=DEMO)
    assert real.get_listed("fal-ai/flux/dev").endpoint.unknown_words("a cat") == []
    assert real.get_listed("fal-ai/flux/dev").demo_words == {}
