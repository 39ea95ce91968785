"""A text, asked for over HTTP and by `darkroom generate`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.darkroom import Darkroom
from tests.engine.conformance.served import save
from tests.engine.conformance.test_served import darkroom
from tests.engine.conformance.zoo import cases

__all__ = ["darkroom"]

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

SHORT = {"gen_length": 8, "num_inference_steps": 3, "temperature": 1.0, "seed": 7}
TURNS = [{"role": "user", "content": "a red dog"}, {"role": "assistant", "content": "a big cat"}]


@pytest.mark.timeout(600)
def test_a_text_is_made_of_a_prompt_or_of_messages_and_printed_or_written(
    darkroom: Darkroom, tmp_path: Path
) -> None:
    save(cases()["DiffusionGemmaPipeline"], tmp_path / "gemma")
    added = darkroom.command("models", "add", "house/writer", "--weights", str(tmp_path / "gemma"))
    assert added.returncode == 0, added.stderr

    def ask(**body: object) -> tuple[int, dict]:
        ran = darkroom.http.post("/run/house/writer", json={**SHORT, **body}, timeout=300)
        return ran.status_code, ran.json()

    status, first = ask(prompt="a red dog")
    assert status == 200
    assert first["output"]
    assert first["seed"] == 7
    assert ask(prompt="a red dog")[1]["output"] == first["output"]
    status, other = ask(messages=TURNS)
    assert status == 200
    assert other["output"] != first["output"]
    for body, field, message in (
        ({}, "prompt", "Field required, unless messages is set"),
        ({"prompt": "a", "messages": TURNS}, "prompt", "prompt and messages cannot both be set"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "role", "Input should be 'system'"),
        ({"prompt": "a", "gen_length": 10**6}, "gen_length", "less than or equal to 32768"),
    ):
        status, refused = ask(**body)
        assert status == 422, refused
        assert refused["detail"][0]["loc"][-1] == field
        assert message in refused["detail"][0]["msg"]
    options = [f"--field={name}={value}" for name, value in SHORT.items() if name != "seed"]
    generate = ("generate", "a red dog", "--model", "house/writer", "--seed", "7", *options)
    printed = darkroom.command(*generate)
    assert printed.stdout.strip() == first["output"].strip(), printed.stderr
    written = darkroom.command(*generate, "-o", str(tmp_path / "answer.txt"))
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "answer.txt").read_text() == first["output"]
    assert darkroom.command(*generate, "-o", str(tmp_path / "answer.png")).returncode != 0
