"""Texts: a conversation that the template of the weights refuses is the request's mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from deployments.families.generic import GenericFamily
from serve_app.domain.errors import InvalidInput
from tests.engine.conformance.derived import entry_of
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ messages[0]['content'] }}"
)


def turns(*roles: str) -> Sequence[Any]:
    return [{"role": role, "content": "a red dog"} for role in roles]


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [("LLaDA2Pipeline", "tokenizer"), ("DiffusionGemmaPipeline", "processor")],
)
def test_a_conversation_that_the_template_refuses_is_the_mistake_of_its_field(
    name: str, tokenizer: str
) -> None:
    case = cases()[name]
    pipeline = case.build()
    entry = entry_of(case, pipeline)

    def prepare(*roles: str) -> Any:
        checked, _ = entry.schema.validate({"messages": turns(*roles)})
        call = GenericFamily().prepare(entry.endpoint, checked, pipeline, 1)
        return call.arguments["messages"]

    getattr(pipeline, tokenizer).chat_template = NO_SYSTEM
    assert prepare("user", "assistant") == turns("user", "assistant")
    with pytest.raises(InvalidInput, match=r"messages: .*System role not supported"):
        prepare("system", "user")
    getattr(pipeline, tokenizer).chat_template = None
    with pytest.raises(InvalidInput, match=r"messages: .*have no chat template"):
        prepare("user")
