"""The steps of the admission, and the page about them."""

from __future__ import annotations

import re
from pathlib import Path

from serve_app.ingress.submission import steps

PAGE = Path(__file__).parents[3] / "serve_app" / "ingress" / "submission" / "README.md"


def test_the_page_has_each_step_with_its_module_in_their_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [(step.__name__, step.__module__.rpartition(".")[2]) for step in steps.STEPS]


def test_a_door_leaves_out_only_the_steps_that_it_names() -> None:
    taken = steps.without({"It has no drafts.": (steps.continue_draft, steps.check_drafts)})
    assert {*steps.STEPS} - {*taken} == {steps.continue_draft, steps.check_drafts}
    assert [step for step in steps.STEPS if step in taken] == [*taken]


def test_doors_take_their_steps_in_the_one_order() -> None:
    for door in (steps.FRAME, steps.SESSION, steps.APP_SESSION, steps.APP_MESSAGE, steps.PRICED):
        of_requests = [step for step in door if step in steps.STEPS]
        assert [step for step in steps.STEPS if step in door] == of_requests
