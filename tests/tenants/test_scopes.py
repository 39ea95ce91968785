"""Rights of callers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.errors import Forbidden
from serve_app.tenants.scopes import (
    ADMIN,
    API,
    CANCEL,
    FILES,
    OPERATOR,
    PRIORITY,
    READ,
    SINGLE,
    SUBMIT,
    TENANT_ADMIN,
    USAGE,
    Caller,
)


def caller(*scopes: str, endpoints: tuple[str, ...] = ()) -> Caller:
    return Caller("dk_1", "studio", frozenset(scopes), endpoints=endpoints)


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ((API,), {SUBMIT, READ, CANCEL, FILES, USAGE}),
        ((READ,), {READ}),
        ((OPERATOR,), {OPERATOR, TENANT_ADMIN}),
        ((API, PRIORITY), {SUBMIT, READ, CANCEL, FILES, USAGE, PRIORITY}),
        ((ADMIN,), set(SINGLE)),
    ],
)
def test_a_bundle_includes_its_scopes_and_no_others(
    scopes: tuple[str, ...], allowed: set[str]
) -> None:
    assert {scope for scope in SINGLE if caller(*scopes).may(scope)} == allowed


def test_a_refusal_names_the_missing_scope_and_the_bundles_with_it() -> None:
    with pytest.raises(Forbidden, match=r"dk_1 lacks the scope `cancel`.*`api` or `admin`"):
        caller(READ).require(CANCEL)
    with pytest.raises(Forbidden, match=r"lacks the scope `operator`.*or `admin`"):
        caller(API).require(OPERATOR)


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("fal-ai/flux/dev", True),
        ("fal-ai/flux/dev/lora", True),
        ("fal-ai/wan", True),
        ("fal-ai/flux", False),
        ("fal-ai/wan/pro", False),
        ("xfal-ai/wan", False),
        ("fal-ai/fluxx/dev", False),
    ],
)
def test_a_star_stands_for_any_characters_and_a_dot_only_for_itself(
    endpoint: str, allowed: bool
) -> None:
    limited = caller(API, endpoints=("fal-ai/flux/*", "fal-ai/wan"))
    assert limited.allows(endpoint) is allowed
    assert caller(API).allows(endpoint)
    assert not caller(API, endpoints=("a.b",)).allows("axb")


@given(st.lists(st.text("ab/", max_size=3), max_size=4).map("*".join), st.text("ab/", max_size=8))
def test_a_pattern_allows_what_its_regular_expression_would(pattern: str, endpoint: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), endpoint) is not None
    assert caller(API, endpoints=(pattern,)).allows(endpoint) is expected


def test_no_pattern_takes_long_to_compare() -> None:
    limited = caller(API, endpoints=("*a" * 40 + "*ab",))
    assert not limited.allows("a" * 2000)


def test_a_refusal_names_the_endpoint_and_those_that_are_allowed() -> None:
    limited = caller(API, endpoints=("fal-ai/flux/*", "fal-ai/wan"))
    with pytest.raises(Forbidden, match=r"does not allow other/one, only fal-ai/flux/\*, fal-ai"):
        limited.require_endpoint("other/one")


def test_a_tenants_admin_gives_no_scope_that_it_lacks() -> None:
    admin = caller(READ, SUBMIT, TENANT_ADMIN)
    admin.require_authority({READ}, ())
    admin.require_authority({READ, TENANT_ADMIN}, ("any/thing",))
    with pytest.raises(Forbidden, match="`cancel`, `files`, `usage`"):
        admin.require_authority({API}, ())
    with pytest.raises(Forbidden, match="`operator`"):
        admin.require_authority({OPERATOR}, ())


def test_an_operator_gives_every_scope() -> None:
    caller(OPERATOR).require_authority({ADMIN, API}, ("any/*",))


def test_a_limited_admin_gives_only_its_own_endpoints() -> None:
    admin = caller(API, TENANT_ADMIN, endpoints=("fal-ai/flux/*",))
    admin.require_authority({API}, ("fal-ai/flux/dev", "fal-ai/flux/d*"))
    for wider in ((), ("*",), ("fal-ai/*",), ("fal-ai/flux/dev", "other/one")):
        with pytest.raises(Forbidden, match=r"fal-ai/flux/\*"):
            admin.require_authority({API}, wider)


PATTERN = st.text("ab/*", min_size=1, max_size=6)


@given(PATTERN, PATTERN, st.text("ab/", max_size=6))
def test_a_pattern_within_another_never_allows_more(own: str, given_: str, endpoint: str) -> None:
    admin = caller(API, TENANT_ADMIN, endpoints=(own,))
    try:
        admin.require_authority({API}, (given_,))
    except Forbidden:
        return
    if caller(API, endpoints=(given_,)).allows(endpoint):
        assert admin.allows(endpoint)
