"""Files of apps are marked and checked by the operator's policies."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serve_app.domain.media.marking import is_marked
from serve_app.domain.outcome import Outcome
from tests.deployments.executors.rig import APP, ExecutorRig
from tests.fakes.image_checkers import AllIsUnsafe, Broken, rule


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ExecutorRig]:
    executor_rig = ExecutorRig(tmp_path)
    await executor_rig.replica.start()
    yield executor_rig
    await executor_rig.replica.aclose()


async def paint(rig: ExecutorRig, **more: Any) -> Outcome:
    return await rig.outcome(rig.offer("one", "/paint", **more))


def read_files(rig: ExecutorRig, outcome: Outcome) -> list[bytes]:
    return [rig.storage.objects[artifact.key] for artifact in outcome.artifacts]


@pytest.mark.parametrize("policy", ["on", "required"])
async def test_files_and_partial_results_have_the_mark(rig: ExecutorRig, policy: str) -> None:
    outcome = await paint(rig, color="red", lease_marking=policy)
    contents = read_files(rig, outcome)
    assert len(contents) == 2
    assert all(is_marked(content) for content in contents)
    shown = [
        base64.b64decode(json.loads(partial.value)["file"]["url"].partition(",")[2])
        for partial in rig.source.partials
    ]
    assert len(shown) == 2
    assert all(is_marked(content) for content in shown)
    with Image.open(BytesIO(contents[0])) as image:
        assert image.getpixel((3, 3)) == (255, 0, 0)
    assert [artifact.size for artifact in outcome.artifacts] == [
        len(content) for content in contents
    ]


async def test_the_mark_can_be_off(rig: ExecutorRig) -> None:
    outcome = await paint(rig, color="red", lease_marking="off")
    assert not any(is_marked(content) for content in read_files(rig, outcome))


async def test_what_no_model_has_made_is_not_marked(rig: ExecutorRig) -> None:
    own = await paint(rig, color="red", generated=False, lease_marking="required")
    assert not any(is_marked(content) for content in read_files(rig, own))
    rig.storage.objects["u/cat.png"] = b"a photograph"
    url = "http://anywhere/files/u/cat.png"
    passed = await rig.outcome(rig.offer("two", "/pass", image_url=url, lease_marking="required"))
    assert read_files(rig, passed) == [b"a photograph"]


async def test_a_file_that_cannot_be_marked_fails_where_the_mark_is_required(
    rig: ExecutorRig,
) -> None:
    marked = {"color": "red", "kind": "application/json"}
    assert len(read_files(rig, await paint(rig, **marked, lease_marking="on"))) == 2
    failed = await rig.outcome(rig.offer("two", "/paint", **marked, lease_marking="required"))
    assert failed.failure is not None
    assert failed.failure.code == "mark_missing"
    assert "generated=False" in failed.failure.message


async def test_a_file_of_the_apps_code_is_never_changed(rig: ExecutorRig) -> None:
    before = APP.read_bytes()
    outcome = await rig.outcome(rig.offer("one", "/own", lease_marking="on"))
    assert read_files(rig, outcome) == [before]
    again = await rig.outcome(rig.offer("two", "/own", lease_marking="on"))
    assert read_files(rig, again) == [before]


async def test_a_safe_file_is_delivered_and_the_output_says_what_checked_it(
    rig: ExecutorRig,
) -> None:
    outcome = await paint(rig, color="blue", lease_safety=(rule("block"),))
    assert outcome.failure is None
    assert (outcome.output or {})["darkroom_safety"] == "checked: mine"
    assert rig.source.decisions == []
    assert rig.source.partials == []  # they would be seen before they are checked


async def test_an_app_cannot_say_that_its_output_was_checked(rig: ExecutorRig) -> None:
    outcome = await rig.outcome(rig.offer("one", "/claim"))
    assert outcome.output == {}


async def test_an_unsafe_file_is_blocked_blurred_or_flagged(rig: ExecutorRig) -> None:
    blocked = await paint(rig, color="red", lease_safety=(rule("block"),))
    assert blocked.failure is not None
    assert blocked.failure.code == "content_policy_violation"
    assert not any(key.startswith("r/") for key in rig.storage.objects)
    for name, action in (("two", "blur"), ("three", "flag")):
        lease_key = rig.offer(
            name, "/paint", color="red", lease_safety=(rule(action),), lease_marking="required"
        )
        outcome = await rig.outcome(lease_key)
        assert outcome.failure is None
        assert all(is_marked(content) for content in read_files(rig, outcome))
    assert [decision for _, decision in rig.source.decisions] == [
        "block",
        "blur",
        "blur",
        "flag",
        "flag",
    ]


@pytest.mark.long
@pytest.mark.parametrize("on_error", ["block", "pass"])
async def test_what_cannot_be_checked_is_delivered_only_if_the_rule_says_so(
    rig: ExecutorRig, on_error: str
) -> None:
    broken = rule("flag", Broken, on_error)
    outcome = await paint(rig, color="red", lease_safety=(broken,))
    assert (outcome.failure is None) == (on_error == "pass")
    unknown = rule("flag", AllIsUnsafe, on_error)
    key = rig.offer("two", "/own", lease_safety=(unknown,))  # no image
    assert ((await rig.outcome(key)).failure is None) == (on_error == "pass")
