from __future__ import annotations

import pickle
import re

import pytest

from serve_app.domain import errors
from serve_app.domain.errors import DarkroomError, FieldProblem, InvalidInput, Overloaded


def tree(root: type[DarkroomError] = DarkroomError) -> list[type[DarkroomError]]:
    own = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(leaf for child in own for leaf in tree(child))]


@pytest.mark.parametrize("kind", tree())
def test_every_error_survives_pickle(kind: type[DarkroomError]) -> None:
    back = pickle.loads(pickle.dumps(kind("What happened, and what to do.")))  # noqa: S301
    assert type(back) is kind
    assert back.message == str(back) == "What happened, and what to do."
    assert (back.code, back.retryable) == (kind.code, kind.retryable)


def test_what_an_error_carries_survives_too() -> None:
    problem = FieldProblem(("body", "seed"), "too large", "less_than_equal", {"le": 9}, 10)
    back = pickle.loads(pickle.dumps(InvalidInput("seed: too large", (problem,))))  # noqa: S301
    assert back.problems == (problem,)
    assert pickle.loads(pickle.dumps(Overloaded("full", 7.5))).retry_after_s == 7.5  # noqa: S301


def test_a_name_of_thousands_of_digits_is_a_name() -> None:
    name = "9" * 5000
    (problem,) = InvalidInput.of_field(f"loras.0.{name}", "unknown").problems
    assert problem.loc == ("body", "loras", 0, name)


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in tree()]
    assert len(codes) == len(set(codes))


def test_the_drawing_of_the_tree_is_the_tree() -> None:
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+)(?:  |$)", errors.__doc__ or "", re.MULTILINE)
    assert set(drawn) == {kind.__name__ for kind in tree()}
