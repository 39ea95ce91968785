"""What the safety policy does with generated files, with the checkers that operators configure."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from accelerate import init_empty_weights
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from deployments.engine.media.images import encode
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_reader import sampled_frames
from deployments.engine.media.video_writer import VideoFile
from deployments.engine.threads import ONE_BUILDER
from deployments.families.base import Product
from deployments.safety.checkers import Checkers, ClassifierChecker, HttpChecker
from deployments.safety.outputs import SAFETY, OutputPolicy
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import ContentBlocked
from tests.fakes.image_checkers import Broken, RedIsUnsafe, rule
from weights.store import Store

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

RED, BLUE = (220, 10, 10), (10, 10, 220)


def image_file(colour: tuple[int, int, int], key: str) -> MediaFile:
    pixels = np.random.default_rng(0).integers(0, 8, (64, 64, 3), np.uint8) + np.uint8(colour)
    image = Image.fromarray(pixels)
    ticket = UploadTicket(key, f"http://s/{key}", "image/png", 10**8)
    return MediaFile(ticket, encode(image, "image/png"), 64, 64, image)


def product(*files: MediaFile) -> Product:
    images = [{"artifact": file.ticket.key, "file_size": file.size} for file in files]
    return Product({"images": images, "has_nsfw_concepts": [False] * len(files)}, files)


def apply_rules(original: Product, *rules: dict[str, Any]):
    checkers = Checkers(Store(StoreConfig()))
    return OutputPolicy(rules, checkers, "a prompt").apply(original, encode)


def test_an_unsafe_image_is_flagged_and_the_safe_one_beside_it_is_not() -> None:
    checked, decisions = apply_rules(
        product(image_file(BLUE, "a"), image_file(RED, "b")), rule("flag")
    )
    assert checked.output["has_nsfw_concepts"] == [False, True]
    assert checked.output[SAFETY] == "checked: mine"
    (decision,) = decisions
    assert (decision.rule, decision.action, decision.label) == ("mine", "flag", "red")
    assert RedIsUnsafe.prompts[-1] == "a prompt"


def test_an_image_that_its_app_or_provider_has_flagged_stays_flagged() -> None:
    original = product(image_file(BLUE, "a"), image_file(BLUE, "b"))
    checked, decisions = apply_rules(
        replace(original, output={**original.output, "has_nsfw_concepts": [True, False]}),
        rule("block"),
    )
    assert (checked.output["has_nsfw_concepts"], decisions) == ([True, False], [])


def test_images_of_an_app_may_be_other_than_files() -> None:
    original = product(image_file(RED, "a"))
    images = ["https://example.com/a.png", *original.output["images"]]
    output = {**original.output, "images": images, "has_nsfw_concepts": []}
    checked, _ = apply_rules(replace(original, output=output), rule("flag"))
    assert checked.output["has_nsfw_concepts"] == [False, True]
    assert checked.output["images"][0] == images[0]


def test_an_unsafe_image_is_blurred_and_its_thumbnail_and_size_are_of_the_blurred_one() -> None:
    before = image_file(RED, "a")
    edges = np.asarray(before.image).astype(float).std()
    checked, _ = apply_rules(product(before), rule("blur"))
    (file,) = checked.files
    assert file.image is not None
    assert np.asarray(file.image).astype(float).std(axis=(0, 1)).max() < 2 < edges
    assert Image.open(io.BytesIO(file.in_memory())).tobytes() == file.image.tobytes()
    assert checked.output["images"][0]["file_size"] == file.size != before.size
    assert checked.output["has_nsfw_concepts"] == [True]


def test_an_unsafe_image_is_blocked_with_what_was_found() -> None:
    with pytest.raises(ContentBlocked, match=r"blocks the output \(mine: red\)"):
        apply_rules(product(image_file(BLUE, "a"), image_file(RED, "b")), rule("block"))
    checked, decisions = apply_rules(product(image_file(BLUE, "a")), rule("block"))
    assert (checked.output["has_nsfw_concepts"], decisions) == ([False], [])


def test_nothing_passes_unchecked_unless_the_rule_says_so() -> None:
    with pytest.raises(ContentBlocked, match="delivers nothing unchecked"):
        apply_rules(product(image_file(BLUE, "a")), rule("flag", Broken))
    checked, decisions = apply_rules(product(image_file(BLUE, "a")), rule("block", Broken, "pass"))
    assert [decision.action for decision in decisions] == ["pass"]
    assert checked.output["has_nsfw_concepts"] == [False]
    with pytest.raises(ContentBlocked):
        apply_rules(
            product(image_file(BLUE, "a")), rule("flag") | {"checker": {"class_path": "no:No"}}
        )


def video(path: Path, colours: list[tuple[int, int, int]], media_type: str) -> MediaFile:
    form = VideoForm(media_type, 32, 32, Fraction(8), len(colours))
    file = VideoFile(path, form, Scratch())
    for colour in colours:
        file.add(np.full((32, 32, 3), colour, np.uint8))
    file.finish()
    return MediaFile(UploadTicket("v", "http://s/v", media_type, 10**8), path, 32, 32)


@pytest.mark.parametrize("media_type", ["video/mp4", "video/webm", "image/gif"])
@pytest.mark.parametrize("action", ["block", "blur"])
def test_frames_of_a_video_are_checked_to_its_end(
    tmp_path: Path, media_type: str, action: str
) -> None:
    unsafe = video(tmp_path / "a", [BLUE] * 19 + [RED], media_type)
    with pytest.raises(ContentBlocked):
        apply_rules(Product({}, (unsafe,)), rule(action))
    safe = video(tmp_path / "b", [BLUE] * 20, media_type)
    checked, decisions = apply_rules(Product({}, (safe,)), rule(action))
    assert (checked.files[0], decisions) == (safe, [])
    with (tmp_path / "b").open("rb") as content:
        assert len(list(sampled_frames(content, 8))) == 8


def audio(key: str = "a") -> MediaFile:
    return MediaFile(UploadTicket(key, f"http://s/{key}", "audio/wav", 10**8), b"RIFF")


@pytest.mark.parametrize("action", ["blur", "block"])
def test_audio_is_blocked_as_no_checker_hears_it_unless_the_rule_lets_it_pass(action: str) -> None:
    with pytest.raises(ContentBlocked, match="no checker of this installation hears"):
        apply_rules(Product({}, (audio(),)), rule(action))
    checked, decisions = apply_rules(Product({}, (audio(),)), rule(action) | {"audio": "pass"})
    assert checked.output[SAFETY] == "not-checked"
    assert [decision.action for decision in decisions] == ["pass"]


def test_a_rule_that_only_flags_withholds_no_audio_and_claims_no_check() -> None:
    checked, decisions = apply_rules(Product({}, (audio(),)), rule("flag", Broken))
    assert (checked.output[SAFETY], decisions) == ("not-checked", [])


def test_the_output_says_which_rules_looked_at_how_many_files() -> None:
    both = product(image_file(BLUE, "a"), audio("b"))
    lax = rule("flag", Broken, "pass") | {"name": "broken"}
    checked, _ = apply_rules(both, rule("flag"), lax)
    assert checked.output[SAFETY] == "checked: mine in 1 of 2 files; not checked: broken"
    checked, _ = apply_rules(product(image_file(BLUE, "a")), lax)
    assert checked.output[SAFETY] == "not-checked"
    assert apply_rules(Product({}, ()), rule("block"))[0].output[SAFETY] == "not-checked"


def test_a_service_gets_the_image_and_the_prompt() -> None:
    calls: list[dict[str, Any]] = []

    def send(url: str, **call: Any) -> httpx2.Response:
        calls.append({"url": url, **call})
        answer = {"unsafe": True, "label": "red", "score": 0.9}
        return httpx2.Response(200, json=answer, request=httpx2.Request("POST", url))

    checker = HttpChecker("http://checker/", 3.0, send)
    verdict = checker.check(Image.new("RGB", (8, 8), RED), "ein Café")
    assert asdict(verdict) == {"unsafe": True, "label": "red", "score": 0.9}
    (call,) = calls
    assert Image.open(io.BytesIO(call["content"])).size == (8, 8)
    assert json.loads(call["headers"]["x-darkroom-prompt"]) == "ein Café"
    assert call["timeout"] == 3.0


@pytest.mark.parametrize("answer", [{"unsafe": "no"}, {}, []])
def test_a_service_that_answers_something_else_has_not_checked(answer: Any) -> None:
    def send(url: str, **_: Any) -> httpx2.Response:
        return httpx2.Response(200, json=answer, request=httpx2.Request("POST", url))

    with pytest.raises((TypeError, KeyError)):
        HttpChecker("http://checker/", 3.0, send).check(Image.new("RGB", (8, 8)), "")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random ViT in the layout of the ones on the hub."""
    folder = tmp_path_factory.mktemp("classifier")
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        id2label={0: "normal", 1: "nsfw"},
        label2id={"normal": 0, "nsfw": 1},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_classifier_is_loaded_from_its_files_and_its_scores_decide(classifier: Path) -> None:
    image = Image.new("RGB", (64, 48), RED)
    verdict = ClassifierChecker(classifier, frozenset({"nsfw"}), 1e-6).check(image, "")
    assert verdict.unsafe
    assert (verdict.label, 0 < verdict.score < 1) == ("nsfw", True)
    both = frozenset({"nsfw", "normal"})
    assert ClassifierChecker(classifier, both, 0.9).check(image, "").score == pytest.approx(1.0)
    assert not ClassifierChecker(classifier, frozenset({"nsfw"}), 1.0).check(image, "").unsafe
    with pytest.raises(ValueError, match="labels normal, nsfw only"):
        ClassifierChecker(classifier, frozenset({"gore"}), 0.5)


def test_a_classifier_that_is_made_while_a_pipeline_is_loaded_has_its_weights(
    classifier: Path,
) -> None:
    """A load keeps what other threads build off the host, as ``loader`` says."""
    with ThreadPoolExecutor(1) as thread:
        with ONE_BUILDER, init_empty_weights():
            checker = thread.submit(ClassifierChecker, classifier, frozenset({"nsfw"}), 0.5)
            wait([checker], timeout=3)
        verdict = checker.result().check(Image.new("RGB", (64, 48), RED), "")
    assert 0 < verdict.score < 1


def test_a_checker_is_made_once_for_a_configuration(classifier: Path) -> None:
    checkers = Checkers(Store(StoreConfig()))
    config = {"directory": str(classifier), "labels": ["NSFW"], "threshold": 0.5}
    assert checkers.checker(config) is checkers.checker(dict(config))
    assert checkers.checker(config | {"threshold": 0.6}) is not checkers.checker(config)
