"""Example calls that ``darkroom serve`` shows."""

from __future__ import annotations

from typing import Any

from serve_app.cli.serve.greeting import MODEL, sample_model


def model(endpoint_id: str, category: str = "text-to-image", *, served: bool = True) -> Any:
    return {
        "endpoint_id": endpoint_id,
        "metadata": {"category": category},
        "darkroom": {"served": served},
    }


def test_the_usual_model_is_shown_where_it_is_served() -> None:
    assert sample_model([model("me/first"), model(MODEL)]) == MODEL


def test_where_it_is_not_another_that_draws_from_a_prompt_is_shown() -> None:
    others = [model("me/videos", "text-to-video"), model("me/later", served=False), model("me/own")]
    assert sample_model([*others, model(MODEL, served=False)]) == "me/own"


def test_where_none_draws_none_is_shown() -> None:
    assert sample_model([model("me/videos", "text-to-video")]) is None
