"""The operator's policy for prompts and LoRAs."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.safety import (
    MAX_TEXT,
    VIOLATION,
    Blocklist,
    Likeness,
    SafetyPolicy,
    SafetyRule,
)

LIST = Blocklist(["Müller", "Jane Doe", "gore", "", "  "])


@pytest.mark.parametrize(
    ("text", "word"),
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
def test_whole_words_are_found_in_any_form_of_their_letters(text: str, word: str | None) -> None:
    assert LIST.find(text) == word


def test_an_empty_list_blocks_nothing() -> None:
    assert not Blocklist(["", " - "])
    assert Blocklist(()).find("gore") is None


def refusal(policy: SafetyPolicy, input: dict[str, Any], tenant: str = "a") -> tuple[str, str]:
    with pytest.raises(InvalidInput) as raised:
        policy.check(tenant, "fal-ai/flux/dev", input)
    (problem,) = raised.value.problems
    assert problem.type == VIOLATION
    return str(problem.loc[1]), problem.message


def test_the_field_and_the_word_are_named() -> None:
    policy = SafetyPolicy((SafetyRule(words=LIST),))
    field, message = refusal(policy, {"prompt": "some GORE"})
    assert (field, "“gore”" in message) == ("prompt", True)
    assert refusal(policy, {"prompt": "x", "prompt_2": "gore"})[0] == "prompt_2"
    assert refusal(policy, {"prompts": ["x", "gore"]})[0] == "prompts"
    urls = {"image_urls": ["https://a/gore.png", "https://b/"], "image_url": "data:;base64,gore"}
    policy.check("a", "e", {"prompt": "x", "negative_prompt": "gore", "seed": 1, **urls})


@pytest.mark.parametrize(
    ("input", "field"),
    [
        ({"text": "[S1] gore"}, "text"),
        ({"lyrics": "la la\ngore"}, "lyrics"),
        ({"scenes": [{"caption": {"en": "gore"}}]}, "scenes.0.caption.en"),
        ({"lines": ["Jane", "Doe"]}, "lines"),
        ({"shots": [["x"], ["gore"]]}, "shots.1"),
        ({"graph": '{"6": {"inputs": {"text": "gore"}}}'}, "graph"),
        ({"prompt": "data:,gore"}, "prompt"),
        ({"image_url": "https://a/b.png gore"}, "image_url"),
        ({"text": "ü" * MAX_TEXT + "x"}, "text"),
    ],
)
def test_words_are_found_in_every_text_that_an_endpoint_may_read_as_a_prompt(
    input: dict[str, Any], field: str
) -> None:
    policy = SafetyPolicy((SafetyRule(words=LIST),))
    with pytest.raises(InvalidInput) as raised:
        policy.check("a", "own/endpoint", input)
    (problem,) = raised.value.problems
    assert ".".join(str(part) for part in problem.loc[1:]) == field


@pytest.mark.parametrize(
    ("graph", "field"),
    [
        ({"negative": {"class_type": "CLIPTextEncode", "inputs": {"text": "gore"}}}, "negative"),
        ({"my negative 6": {"inputs": {"text": ["gore"]}}}, "my negative 6"),
        ({"loras": {"class_type": "CLIPTextEncode", "inputs": {"text": "gore"}}}, "loras"),
    ],
)
def test_the_name_that_a_client_chose_for_a_node_of_a_graph_does_not_hide_its_texts(
    graph: dict[str, Any], field: str
) -> None:
    policy = SafetyPolicy((SafetyRule(words=LIST),))
    with pytest.raises(InvalidInput) as raised:
        policy.check("a", "studio/comfyui", {"prompt": graph})
    (problem,) = raised.value.problems
    assert ".".join(str(part) for part in problem.loc[1:]) == f"prompt.{field}.inputs.text"


def test_negative_prompts_in_nodes_and_lists_say_what_not_to_draw() -> None:
    policy = SafetyPolicy((SafetyRule(words=LIST),))
    node = {"class_type": "Loader", "inputs": {"negative": "gore", "positive": "a cat"}}
    policy.check("a", "studio/comfyui", {"prompt": {"1": node}})
    policy.check("a", "e", {"prompt": "x", "negative_prompts": ["gore", ["gore"]]})
    policy.check("a", "e", {"prompt": "x", "loras": [{"path": "artist/gore"}]})


def test_a_file_in_base64_is_searched_fast_enough_to_be_let_through() -> None:
    SafetyPolicy((SafetyRule(words=LIST),)).check("a", "e", {"image": "QUJD" * 500_000})


LISTED = Likeness(frozenset({"good/lora"}), frozenset({"d" * 64}))


@pytest.mark.parametrize(
    ("input", "field"),
    [
        ({"image_url": "https://a/face.png"}, "image_url"),
        ({"image_urls": ["data:image/png;base64,AAAA"]}, "image_urls.0"),
        ({"references": [{"video": {"url": " HTTP://a/b.mp4"}}]}, "references.0.video.url"),
        ({"image": "QUJD" * 500}, "image"),
        ({"loras": [{"path": "good/lora"}, {"path": "someone/else"}]}, "loras.1.path"),
        ({"loras": [{"path": "https://a/face.safetensors"}]}, "loras.0.path"),
        ({"loras": ["someone/else"]}, "loras.0.path"),
    ],
)
def test_what_could_carry_a_likeness_is_refused(input: dict[str, Any], field: str) -> None:
    policy = SafetyPolicy((SafetyRule(endpoints=("fal-ai/*",), likeness=LISTED),))
    with pytest.raises(InvalidInput) as raised:
        policy.check("a", "fal-ai/flux/dev", {"prompt": "x", **input})
    (problem,) = raised.value.problems
    assert problem.type == VIOLATION
    assert ".".join(str(part) for part in problem.loc[1:]) == field
    policy.check("a", "other/endpoint", {"prompt": "x", **input})


def test_prompts_and_listed_weights_pass_the_rule_for_likenesses() -> None:
    policy = SafetyPolicy((SafetyRule(likeness=LISTED),))
    loras = ["Good/Lora", "https://huggingface.co/good/lora/resolve/main/a.safetensors"]
    fields = {"loras": [{"path": path} for path in (*loras, "weights:mine@" + "d" * 64)]}
    policy.check(
        "a", "e", {"prompt": "a portrait, see https://a/", "image_size": "square", **fields}
    )
    policy.check_weights("a", "e", "", ["d" * 64], "loras")
    policy.check_weights("a", "e", "Good/Lora", [], "loras")
    for repository, digests in (("", []), ("someone/else", []), ("", ["d" * 64, "e" * 64])):
        with pytest.raises(InvalidInput):
            policy.check_weights("a", "e", repository, digests, "loras")


def test_a_rule_is_for_its_tenants_and_endpoints() -> None:
    rule = SafetyRule(tenants=("a",), endpoints=("fal-ai/flux/*",), words=LIST)
    policy = SafetyPolicy((rule,))
    refusal(policy, {"prompt": "gore"})
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
    field, message = refusal(policy, {"loras": [{"path": "good/lora"}, {"path": path}]})
    assert field == "loras"
    assert "bad/lora" in message
    policy.check("a", "e", {"loras": [{"path": "good/lora"}], "prompt": "x"})
