"""The operator's policy for prompts and LoRAs."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.safety import VIOLATION, Blocklist, SafetyPolicy, SafetyRule

LIST = Blocklist(["Müller", "Jane Doe", "gore", "", "  "])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a portrait of Muller", "Müller"),
        ("MÜLLER!", "Müller"),
        ("Mu\u0308ller", "Müller"),
        ("ｇｏｒｅ in wide letters", "gore"),
        ("go\u200bre with a space of no width", "gore"),
        ("jane   doe, smiling", "Jane Doe"),
        ("Jane-Doe", "Jane Doe"),
        ("jane smiling at doe", None),
        ("gorey categories", None),
        ("", None),
    ],
)
def test_whole_words_are_found_in_any_form_of_their_letters(text: str, found: str | None) -> None:
    assert LIST.find(text) == found


def test_an_empty_list_blocks_nothing() -> None:
    assert not Blocklist(["", " - "])
    assert Blocklist(()).find("gore") is None


def refused(policy: SafetyPolicy, input: dict[str, Any], tenant: str = "a") -> tuple[str, str]:
    with pytest.raises(InvalidInput) as raised:
        policy.check(tenant, "fal-ai/flux/dev", input)
    (problem,) = raised.value.problems
    assert problem.type == VIOLATION
    return str(problem.loc[1]), problem.message


def test_the_field_and_the_word_are_named() -> None:
    policy = SafetyPolicy((SafetyRule(words=LIST),))
    field, message = refused(policy, {"prompt": "some GORE"})
    assert (field, "“gore”" in message) == ("prompt", True)
    assert refused(policy, {"prompt": "x", "prompt_2": "gore"})[0] == "prompt_2"
    assert refused(policy, {"prompts": ["x", "gore"]})[0] == "prompts"
    policy.check("a", "e", {"prompt": "x", "negative_prompt": "gore", "image_url": "gore"})


def test_a_rule_is_for_its_tenants_and_endpoints() -> None:
    rule = SafetyRule(tenants=("a",), endpoints=("fal-ai/flux/*",), words=LIST)
    policy = SafetyPolicy((rule,))
    refused(policy, {"prompt": "gore"})
    policy.check("b", "fal-ai/flux/dev", {"prompt": "gore"})
    policy.check("a", "fal-ai/wan", {"prompt": "gore"})


@pytest.mark.parametrize(
    "path",
    [
        "Bad/Lora",
        "bad/lora/weights.safetensors@main",
        "https://huggingface.co/bad/LORA/resolve/main/a.safetensors",
    ],
)
def test_a_lora_is_refused_by_its_repository(path: str) -> None:
    policy = SafetyPolicy((SafetyRule(loras=frozenset({"bad/lora"})),))
    field, message = refused(policy, {"loras": [{"path": "good/lora"}, {"path": path}]})
    assert field == "loras"
    assert "bad/lora" in message
    policy.check("a", "e", {"loras": [{"path": "good/lora"}], "prompt": "x"})
