"""Settings of the safety policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.settings import read_config

LIKENESS = {"likeness": "refuse", "outputs": "block", "checker": "x"}
CHECKER = {"repository": "owner/classifier", "revision": "a" * 40}


def test_words_come_from_the_rule_and_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Jane Doe\n\nJohn Roe\n")
    rule = {"blocked_words": ["gore"], "blocked_words_file": str(file)}
    policy = read_config({"safety_rules": [rule]}).safety.policy()
    for prompt in ("gore", "john roe"):
        with pytest.raises(InvalidInput):
            policy.check("t", "e", {"prompt": prompt})
    policy.check("t", "e", {"prompt": "a red circle"})


def test_without_rules_nothing_is_refused_or_checked() -> None:
    policy = read_config({}).safety.policy()
    policy.check("t", "e", {"prompt": "anything"})
    assert policy.outputs("t", "e") == ()


def test_a_rule_says_how_files_are_checked() -> None:
    rule = {"endpoints": ["fal-ai/*"], "outputs": "blur", "checker": "nsfw"}
    settings = {"safety_rules": [rule], "safety_checkers": {"nsfw": CHECKER}}
    policy = read_config(settings).safety.policy()
    (outputs,) = policy.outputs("t", "fal-ai/flux/dev")
    assert (outputs["name"], outputs["action"], outputs["on_error"]) == ("nsfw", "blur", "block")
    assert outputs["checker"]["repository"] == "owner/classifier"
    assert policy.outputs("t", "darkroom/sdxs") == ()


def test_likenesses_are_refused_where_a_rule_says_so() -> None:
    rules = [LIKENESS | {"endpoints": ["fal-ai/*"], "allowed_loras": ["Good/Lora", "D" * 64]}]
    settings = {"safety_rules": rules, "safety_checkers": {"x": CHECKER}}
    policy = read_config(settings).safety.policy()
    with pytest.raises(InvalidInput, match="real people"):
        policy.check("t", "fal-ai/flux/dev", {"image_url": "https://a/b.png"})
    policy.check("t", "fal-ai/flux/dev", {"loras": [{"path": "good/lora"}]})
    policy.check_weights("t", "fal-ai/flux/dev", "", ["d" * 64], "loras")
    (outputs,) = policy.outputs("t", "fal-ai/flux/dev")
    assert (outputs["action"], outputs["on_error"]) == ("block", "block")


@pytest.mark.parametrize(
    ("rule", "checkers", "words"),
    [
        ({"outputs": "blur"}, {}, "belong together"),
        ({"likeness": "refuse"}, {}, "needs a checker that recognises people"),
        (LIKENESS | {"outputs": "flag"}, {"x": CHECKER}, "needs a checker that recognises people"),
        (LIKENESS | {"on_error": "pass"}, {"x": CHECKER}, "needs a checker that recognises people"),
        (LIKENESS, {}, "not in DARKROOM_SAFETY_CHECKERS"),
        ({"allowed_loras": ["a/b"]}, {}, "belongs to likeness"),
        (LIKENESS | {"allowed_loras": ["a"]}, {"x": CHECKER}, "neither owner/name"),
        ({"outputs": "blur", "checker": "x"}, {}, "not in DARKROOM_SAFETY_CHECKERS"),
        ({"blocked_words_file": "/nowhere/names.txt"}, {}, "cannot be read"),
        ({}, {"x": {}}, "exactly one"),
        ({}, {"x": {"repository": "a/b", "url": "http://c"}}, "exactly one"),
        ({}, {"x": {"class_path": "module"}}, "module:Class"),
        ({}, {"x": {"repository": "a/b", "revision": "main"}}, "40 digits"),
    ],
)
def test_a_mistake_ends_the_start(
    rule: dict[str, Any], checkers: dict[str, Any], words: str
) -> None:
    with pytest.raises(Misconfigured, match=words):
        read_config({"safety_rules": [rule], "safety_checkers": checkers}).safety.policy()
