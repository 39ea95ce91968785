"""``darkroom generate`` with ``--draft`` and ``--from-draft``."""

from __future__ import annotations

import json

from tests.cli.generation.test_command import Shell, address, data_dir, generate, here

__all__ = ["address", "data_dir", "generate", "here"]

FLUX = ("-m", "fal-ai/flux/schnell")


def test_drafts_are_written_as_files_with_their_ids(generate: Shell) -> None:
    drafting = ("--draft", "2", "--until", "0.5", "--seed", "7")
    result = generate("a dog", *FLUX, "-o", "dog.png", *drafting)
    assert result.exit_code == 0, result.output
    first, second, hint = result.stdout.strip().splitlines()
    assert first.startswith("dog.png  ")
    assert second.startswith("dog-2.png  ")
    assert second.endswith("  seed 8, step 1 of 4")
    assert "--from-draft ID" in hint
    assert generate.requests()[0]["endpoint_id"] == "fal-ai/flux/schnell"


def test_a_draft_is_finished_by_its_id_alone_or_with_changes(generate: Shell) -> None:
    result = generate("a dog", *FLUX, "-o", "dog.png", "--draft", "1", "--json")
    assert result.exit_code == 0, result.output
    draft = json.loads(result.stdout)["drafts"][0]["id"]
    done = generate("--from-draft", draft, "-o", "done.png")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("done.png")
    other = generate("a cat", "--from-draft", draft, "--new-noise", "0.4", "-o", "other.png")
    assert other.exit_code == 0, other.output


def test_what_a_draft_has_decided_is_named_by_its_option(generate: Shell) -> None:
    result = generate("a dog", *FLUX, "--draft", "1", "--json")
    draft = json.loads(result.stdout)["drafts"][0]["id"]
    refused = generate("--from-draft", draft, "--size", "square")
    assert refused.exit_code == 1
    assert "--size (image_size)" in refused.output


def test_options_that_contradict_each_other_are_refused_before_any_call(generate: Shell) -> None:
    for words, message in {
        (): "Add a PROMPT",
        ("a dog", "--until", "0.5"): "Add --draft",
        ("--draft", "2", "--from-draft", "x"): "Leave out one",
        ("a dog", "--draft", "2", "-o", "-"): "--draft",
    }.items():
        refused = generate(*words)
        assert refused.exit_code != 0
        assert message in refused.output, words


def test_an_unknown_draft_is_said_to_be_unknown(generate: Shell) -> None:
    refused = generate("--from-draft", "nothing")
    assert refused.exit_code == 1
    assert "There is no draft nothing" in refused.output
