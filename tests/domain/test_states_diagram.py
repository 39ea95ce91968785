"""The state diagram in the docs matches the transition table of the code."""

from __future__ import annotations

import re

from serve_app.domain.request import TRANSITIONS, State
from tests.docs.pages import DOCS, block

START_OR_END = "[*]"


def test_the_diagram_of_states_is_the_table_of_transitions() -> None:
    diagram = block(DOCS / "explanation" / "queue.md", "mermaid")
    drawn = re.findall(r"^ *(\S+) --> (\S+)$", diagram, re.M)
    assert len(drawn) == len(set(drawn))
    transitions = {(State(a), State(b)) for a, b in drawn if START_OR_END not in (a, b)}
    assert transitions == {(a, b) for a, after in TRANSITIONS.items() for b in after}
    assert {b for a, b in drawn if a == START_OR_END} == {State.QUEUED}
    assert {a for a, b in drawn if b == START_OR_END} == {state for state in State if state.final}
