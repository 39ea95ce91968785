"""Models: the catalogue in Replicate's format."""

from __future__ import annotations

import pytest

from tests.ingress.house import OTHERS, build_house

MODELS = "/replicate/v1/models"
FLUX = "fal-ai/flux-schnell"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (b"schnell flux", [FLUX]),
        (b'"schnell flux"', [FLUX]),  # as Replicate's JavaScript client sends it
        (b'"schn\\u0065ll"', [FLUX]),
        (b'"schnell', []),
        (b'["schnell"]', []),
        (b"[" * 1000, []),
        (b"\xff", []),
    ],
)
async def test_a_search_is_a_text_or_a_json_string(query: bytes, names: list[str]) -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        kind = {"content-type": "text/plain"}
        answer = await client.request("QUERY", MODELS, content=query, headers=kind)
        model_names = [f"{model['owner']}/{model['name']}" for model in answer.json()["results"]]
    assert (answer.status_code, model_names) == (200, names)
