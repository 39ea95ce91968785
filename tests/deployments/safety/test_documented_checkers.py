"""Checkers of the docs: a classifier on the hub, and a class of the operator's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.engine.media.images import encode
from deployments.safety.checkers import Checkers
from deployments.safety.outputs import OutputPolicy
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import ContentBlocked
from serve_app.settings import read_config
from tests.deployments.safety.test_outputs import BLUE, RED, classifier, image_file, product
from tests.docs.pages import DOCS, blocks
from tests.weights.hub_server import HubServer, serving
from weights.hub import Hub
from weights.store import Store

__all__ = ["classifier"]

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

PAGE = DOCS / "how-to" / "set-a-safety-policy.md"
CHECKER = "Falconsai/nsfw_image_detection"


def documented_checkers() -> Mapping[str, Any]:
    """Setting of the docs with a classifier on the hub."""
    (text,) = (block.text for block in blocks(PAGE, "json") if CHECKER in block.text)
    return json.loads(text)


def rule_of_settings(action: str = "block") -> Mapping[str, Any]:
    """Rule of a lease, as the settings make it of the docs' checker."""
    rule = {"outputs": action, "checker": "nsfw"}
    settings = {"safety_rules": [rule], "safety_checkers": documented_checkers()}
    (lease_rule,) = read_config(settings).safety.policy().of_lease("t", "fal-ai/flux/dev")
    return lease_rule


def test_the_classifier_of_the_docs_is_a_valid_setting() -> None:
    checker = rule_of_settings()["checker"]
    assert checker["repository"] == CHECKER
    assert [*checker["labels"]] == ["nsfw"]


@pytest.fixture
def hub(tmp_path: Path, classifier: Path) -> Iterator[HubServer]:
    """Hub with a classifier in the format of the documented one, and what is beside it there."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for file in classifier.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("optimizer.pt", "pytorch_model.bin"):
        (folder / name).write_bytes(b"a pickle")
    server = HubServer()
    server.add(CHECKER, rule_of_settings()["checker"]["revision"], folder)
    with serving(server):
        yield server


def test_a_classifier_is_fetched_at_its_commit_without_pickles_and_decides(
    hub: HubServer, tmp_path: Path
) -> None:
    store = Store(StoreConfig(tmp_path / "store"), partial(Hub, hub.url, tries=1))
    checkers, rule = Checkers(store), rule_of_settings()

    def applied(threshold: float) -> Any:
        checker = {**rule["checker"], "threshold": threshold}
        changed = [{**rule, "checker": checker}]
        policy = OutputPolicy(changed, checkers, "")
        return policy.apply(product(image_file(RED, "a")), encode)

    with pytest.raises(ContentBlocked, match="nsfw"):
        applied(1e-6)
    checked, decisions = applied(1.0)
    assert (len(checked.files), decisions) == (1, [])
    assert [request.path for request in hub.asked if "/resolve/" in request.path]
    assert not [request for request in hub.asked if request.path.endswith((".pt", ".bin"))]


def test_the_class_of_the_docs_checks_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (block.text for block in blocks(PAGE, "python"))
    (tmp_path / "house_rules.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "house_rules", raising=False)
    declared = {"red": {"class_path": "house_rules:TooRed"}}
    settings = {
        "safety_rules": [{"outputs": "block", "checker": "red"}],
        "safety_checkers": declared,
    }
    rules = read_config(settings).safety.policy().of_lease("t", "e")
    checkers = Checkers(Store(StoreConfig()))
    with pytest.raises(ContentBlocked, match="red"):
        OutputPolicy(rules, checkers, "").apply(product(image_file(RED, "a")), encode)
    checked, _ = OutputPolicy(rules, checkers, "").apply(product(image_file(BLUE, "a")), encode)
    assert len(checked.files) == 1
    config = rules[0]["checker"]
    assert checkers.checker(config) is checkers.checker(dict(config)), "made once in a replica"
    assert checkers.checker(config).check(Image.new("RGB", (8, 8), RED), "").score > 0.9
