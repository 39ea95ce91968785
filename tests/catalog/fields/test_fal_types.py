"""pydantic's errors under the names that fal lists."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from serve_app.catalog.fields.pydantic_schema import invalid_input


class Bounded(BaseModel):
    above: int = Field(default=1, gt=0)
    below: int = Field(default=1, lt=9)
    eights: int = Field(default=8, multiple_of=8)
    text: str = Field(default="ab", min_length=2, max_length=3)
    items: list[int] = Field(default=[1, 2], min_length=2, max_length=3)


@pytest.mark.parametrize(
    ("body", "type_", "context"),
    [
        ({"above": 0}, "greater_than", {"gt": 0}),
        ({"below": 9}, "less_than", {"lt": 9}),
        ({"eights": 9}, "multiple_of", {"multiple_of": 8}),
        ({"text": "a"}, "sequence_too_short", {"min_length": 2}),
        ({"text": "abcd"}, "sequence_too_long", {"max_length": 3}),
        ({"items": [1]}, "sequence_too_short", {"min_length": 2}),
        ({"items": [1, 2, 3, 4]}, "sequence_too_long", {"max_length": 3}),
    ],
)
def test_bounds_have_fals_names(body: dict[str, Any], type_: str, context: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Bounded.model_validate(body)
    (problem,) = invalid_input(caught.value).problems
    assert problem.type == type_
    assert problem.context is not None
    assert context.items() <= problem.context.items()
    assert problem.loc == ("body", *body)
