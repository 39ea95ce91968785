"""Access rules of private files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.media.file_access import AccessDecision, FileAccess
from serve_app.storage import keys

ALLOW, FORBID, HIDE = AccessDecision.ALLOW, AccessDecision.FORBID, AccessDecision.HIDE
decisions = st.sampled_from(AccessDecision)
rules = st.dictionaries(st.text(min_size=1), decisions, max_size=4)


@given(st.text(min_size=1), decisions, rules)
def test_the_owner_may_read_whatever_the_rules_say(
    tenant: str, default: AccessDecision, users: dict[str, AccessDecision]
) -> None:
    assert FileAccess(tenant, default, users).decide(tenant) is ALLOW


def test_a_rule_for_a_user_comes_before_the_default() -> None:
    access = FileAccess("a", HIDE, {"b": ALLOW, "c": FORBID})
    readers = ("a", "b", "c", "d", None)
    assert [access.decide(reader) for reader in readers] == [ALLOW, ALLOW, FORBID, HIDE, HIDE]


def test_files_that_everyone_may_read_are_not_private() -> None:
    assert not FileAccess("a", ALLOW, {"b": ALLOW}).private
    assert FileAccess("a", ALLOW, {"b": FORBID}).private
    assert FileAccess("a", FORBID).private


@given(st.text(min_size=1), decisions, rules)
def test_the_id_depends_on_the_rules_and_not_on_their_order(
    tenant: str, default: AccessDecision, users: dict[str, AccessDecision]
) -> None:
    access = FileAccess(tenant, default, users)
    assert access.id == FileAccess(tenant, default, dict(reversed(users.items()))).id
    assert access.id != FileAccess(f"{tenant}x", default, users).id
    assert keys.valid(keys.artifact_key("0195", 1, "image/png", access=access.id))


def test_a_keyed_id_depends_on_the_secret_and_the_rules() -> None:
    access, other = FileAccess("a", FORBID), FileAccess("b", FORBID)
    ids = {
        access.id,
        access.with_keyed_id(b"1").id,
        access.with_keyed_id(b"2").id,
        other.with_keyed_id(b"1").id,
    }
    assert len(ids) == 4
    assert access.with_keyed_id(b"1").id == access.with_keyed_id(b"1").id
    assert access.with_keyed_id(b"1") == access
    keyed = access.with_keyed_id(b"1", outputs=True)
    key = keys.artifact_key("0195", 1, "image/png", access=keyed.id)
    assert keys.valid(key)
    assert key.startswith("p/r.")
    assert not keys.upload_key("image/png", access=access.with_keyed_id(b"1").id).startswith("p/r.")
    assert keys.access_id(key) == keyed.id


def test_a_key_says_whether_its_file_is_private_and_of_which_request_it_is() -> None:
    access = FileAccess("a", FORBID).id
    output_key = keys.artifact_key("0195", 1, "image/png", access=access)
    sent = keys.upload_key("image/png", "cat.png", access=access)
    for key in (output_key, sent):
        assert keys.is_private(key)
        assert keys.access_id(key) == access
    assert keys.request_of(output_key) == "0195"
    assert keys.request_of(sent) is None
    assert keys.request_of(keys.artifact_key("0195", 1, "image/png")) == "0195"
    assert not keys.is_private(keys.upload_key("image/png"))
