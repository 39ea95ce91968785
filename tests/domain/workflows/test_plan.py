"""What a workflow does next: each step once, after those that it needs, whatever the order of the
ends; and what references and conditions stand for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.json_size import JsonRoom
from serve_app.domain.workflows import plan as planning
from serve_app.domain.workflows.definition import MAX_ITEMS, Node, Workflow, holds
from serve_app.domain.workflows.plan import Plan, StepFailure, StepId, StepOutputs
from serve_app.domain.workflows.references import FILE_URL, NotThere, resolve

MAX_BYTES = 10_000


def plan(workflow: Workflow, input: dict[str, Any], steps: StepOutputs) -> Plan:
    return planning.plan(workflow, input, steps, MAX_BYTES)


def flow(output: dict[str, Any] | None = None, **nodes: Any) -> Workflow:
    by_name = {name: Node(name, "a/b", **fields) for name, fields in nodes.items()}
    return Workflow(by_name, output or {"x": 1})


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """Workflows of up to six steps, whose references lead to earlier ones."""
    nodes: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 6))):
        earlier = [f"n{n}" for n in range(number)]
        sources = draw(st.lists(st.sampled_from(earlier), max_size=3)) if earlier else []
        fields: dict[str, Any] = {"input": {f"f{n}": f"${s}" for n, s in enumerate(sources)}}
        if draw(st.booleans()):
            fields["for_each"] = draw(st.lists(st.integers(), max_size=3))
        if earlier and draw(st.booleans()):
            fields["depends"] = (draw(st.sampled_from(earlier)),)
        if draw(st.integers(0, 3)) == 0:
            fields["when"] = "$input.yes"
        nodes[f"n{number}"] = fields
    return flow({"all": {"$first": [f"${name}" for name in nodes]}}, **nodes)


@given(workflows(), st.booleans(), st.data())
def test_each_step_starts_once_after_those_that_it_needs(
    workflow: Workflow, yes: bool, data: st.DataObject
) -> None:
    steps: dict[StepId, Any] = {}
    ended: set[str] = set()
    for _ in range(100):
        now = plan(workflow, {"yes": yes}, steps)
        assert plan(workflow, {"yes": yes}, steps) == now
        assert now.failure is None
        if now.output is not None:
            break
        for call in now.calls:
            assert call.step not in steps
            needs = workflow.nodes[call.step.node].needs()
            assert needs <= ended | now.skipped | _empty(workflow)
            steps[call.step] = None
        running = [step for step, result in steps.items() if result is None]
        assert running, "nothing runs, and it has not ended"
        done = data.draw(st.sampled_from(running))
        steps[done] = {"n": done.item}
        same = [s for s in steps if s.node == done.node]
        if all(steps[s] is not None for s in same):
            ended.add(done.node)
    else:
        raise AssertionError("it does not end")
    skipped = {name for name, node in workflow.nodes.items() if node.when is not None and not yes}
    assert skipped <= now.skipped
    assert {step.node for step in steps}.isdisjoint(now.skipped)


def _empty(workflow: Workflow) -> set[str]:
    return {name for name, node in workflow.nodes.items() if node.for_each == []}


@given(workflows(), st.data())
def test_a_failed_step_ends_it_with_its_message(workflow: Workflow, data: st.DataObject) -> None:
    calls = plan(workflow, {"yes": True}, {}).calls
    if not calls:
        return
    failed = data.draw(st.sampled_from(calls)).step
    failure = StepFailure(failed.node, "It went wrong.")
    steps: StepOutputs = {call.step: None for call in calls} | {failed: failure}
    assert plan(workflow, {"yes": True}, steps).failure == failure


def test_elements_are_numbered_and_collected_in_their_order() -> None:
    workflow = flow(
        {"names": "$each.*.name"},
        each={"for_each": "$input.list", "input": {"a": "$item.x", "b": "$index", "c": "$$5"}},
    )
    given_input = {"list": [{"x": "p"}, {"x": "q"}]}
    calls = plan(workflow, given_input, {}).calls
    assert [call.input for call in calls] == [
        {"a": "p", "b": 0, "c": "$5"},
        {"a": "q", "b": 1, "c": "$5"},
    ]
    steps: StepOutputs = {StepId("each", 1): {"name": "Q"}, StepId("each", 0): {"name": "P"}}
    assert plan(workflow, given_input, steps).output == {"names": ["P", "Q"]}


@pytest.mark.parametrize(
    ("elements", "message"), [("x", "a list"), ([0] * (MAX_ITEMS + 1), "at most"), (None, "a list")]
)
def test_what_is_no_list_of_elements_is_a_failure(elements: Any, message: str) -> None:
    workflow = flow(each={"for_each": "$input.list"})
    failure = plan(workflow, {"list": elements}, {}).failure
    assert failure is not None
    assert message in failure.message
    assert "`each`" in failure.message


@pytest.mark.parametrize("given_input", [{"$first": ["$input.none"]}, {"$first": ["text"]}])
def test_an_input_that_becomes_no_object_is_a_failure(given_input: Any) -> None:
    failure = plan(flow(draw={"input": given_input}), {}, {}).failure
    assert failure is not None
    assert "an object" in failure.message


@pytest.mark.parametrize("field", ["for_each", "input"])
def test_a_first_of_no_list_is_a_failure(field: str) -> None:
    failure = plan(flow(draw={field: {"$first": "$input.list"}}), {"list": [1]}, {}).failure
    assert failure is not None
    assert "a list of values" in failure.message


VALUES = {"a": {"list": [1, {"b": None}], "file": {"artifact": "r/1/1/x.png"}, "0": "zero"}}


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("$a.list.0", 1),
        ("$a.list.1.b", None),
        ("$a.0", "zero"),
        ("$a.file.url", {FILE_URL: "r/1/1/x.png"}),
        ("$$a.list", "$a.list"),
        ("a $a.list.0", "a $a.list.0"),
        ({"x": ["$a.list.0"]}, {"x": [1]}),
        ({"$first": ["$a.none", "$a.list.1.b", "$a.0"]}, "zero"),
        ({"$first": ["$a.none"]}, None),
    ],
)
def test_a_reference_is_a_whole_text(reference: Any, value: Any) -> None:
    assert resolve(reference, VALUES.__getitem__) == value


@pytest.mark.parametrize(
    "reference",
    [
        *("$a.none", "$a.list.7", "$a.list.x", "$a.0.x", "$a.list.0.x", "$a.file.*"),
        "$a.list." + "9" * 5000,
    ],
    ids=lambda reference: reference[:12],
)
def test_a_reference_to_nothing_says_which(reference: str) -> None:
    with pytest.raises(NotThere, match=r"`\$a"):
        resolve(reference, VALUES.__getitem__)


@pytest.mark.parametrize(
    ("condition", "true"),
    [
        (True, True),
        ("$a.0", True),
        ("$a.none", False),
        ({"value": "$a.0", "equals": "zero"}, True),
        ({"value": "$a.0", "not_equals": "zero"}, False),
        ({"value": "$a.list.0", "greater_than": 0}, True),
        ({"value": "$a.list.0", "less_than": 0}, False),
        ({"value": "$a.0", "less_than": 5}, False),
        ({"value": "$a.list.0", "in": [1, 2]}, True),
        ({"value": "$a.list.0", "in": ["$a.none", 1]}, True),
        ({"value": "$a.list.0", "in": ["$a.none", 2]}, False),
        ({"value": "$a.none", "exists": False}, True),
        ({"value": {"$first": "$a.0"}, "exists": False}, True),
        ({"not": "$a.none"}, True),
        ({"all": ["$a.0", "$a.none"]}, False),
        ({"any": ["$a.0", "$a.none"]}, True),
    ],
)
def test_conditions(condition: Any, true: bool) -> None:
    assert holds(condition, VALUES.__getitem__) is true


def test_a_step_whose_input_would_be_gigabytes_cannot_start() -> None:
    """A part of an input is in memory once, and as text as often as a step refers to it."""
    workflow = flow(a={"input": {"all": ["$input.text"] * 40_000}})
    failure = plan(workflow, {"text": "x" * 1_000_000}, {}).failure
    assert failure is not None
    assert failure.message == (
        "The step `a` cannot start: its input has more than 10000 bytes (DARKROOM_MAX_BODY_BYTES) "
        "or 250000 values."
    )


def test_an_output_that_would_be_gigabytes_fails() -> None:
    workflow = flow({"all": ["$a.text"] * 40_000}, a={})
    failure = plan(workflow, {}, {StepId("a"): {"text": "x" * 1_000_000}}).failure
    assert failure is not None
    assert failure.message.startswith("The output of the workflow has more than 10000 bytes")


def test_steps_whose_inputs_are_large_together_start_in_parts() -> None:
    workflow = flow(a={"for_each": [*range(7)], "input": {"text": "$input.text", "n": "$index"}})
    steps: dict[StepId, Any] = {}
    for _ in range(7):
        now = plan(workflow, {"text": "x" * 4_000}, steps)
        assert len(now.calls) == 2 or len(steps) == 6
        steps |= {call.step: None for call in now.calls}
        if not now.more:
            break
    assert len(steps) == 7
    assert plan(workflow, {"text": "x" * 4_000}, steps).calls == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_the_room_of_a_value_is_no_more_than_its_text(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    room = JsonRoom(len(text) + text.count("[") + text.count("{") + 1)
    assert room.take(value)
