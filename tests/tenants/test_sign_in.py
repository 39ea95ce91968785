"""Rights of people by their groups, and the states of sign-ins."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_app.domain.errors import Forbidden
from serve_app.tenants.sign_in import Person, Rights, provider_token, rights_of

API, READ = frozenset({"api"}), frozenset({"read"})


def person(*groups: str) -> Person:
    return Person("1", "ada@example.org", groups)


def test_the_first_group_of_the_settings_decides_the_tenant() -> None:
    groups = {"ops": Rights("default", API), "art": Rights("studio", READ)}
    assert rights_of(person("art", "ops"), groups) == Rights("default", API)
    assert rights_of(person("art"), groups) == Rights("studio", READ)


def test_rights_of_several_groups_for_one_tenant_are_added() -> None:
    groups = {
        "art": Rights("studio", READ, ("test/*",)),
        "film": Rights("studio", API, ("other/*", "test/*")),
        "ops": Rights("default", frozenset({"admin"})),
    }
    rights = rights_of(person("ops", "film", "art"), groups)
    assert rights == Rights("studio", READ | API, ("test/*", "other/*"))


def test_a_group_without_limits_lifts_those_of_others() -> None:
    groups = {"art": Rights("studio", READ, ("test/*",)), "film": Rights("studio", READ)}
    assert rights_of(person("art", "film"), groups).endpoints == ()


def test_everybody_else_may_have_rights() -> None:
    groups = {"*": Rights("guests", READ), "art": Rights("studio", API)}
    assert rights_of(person("art"), groups).tenant == "studio"
    assert rights_of(person("x"), groups).tenant == "guests"
    with pytest.raises(Forbidden, match=r"ada@example.org may not use .* \(x, y\)"):
        rights_of(person("x", "y"), {"art": Rights("studio", API)})


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer a.b.c", "a.b.c"),
        ("bearer a.b.c", "a.b.c"),
        ("Key a.b.c", None),
        ("Bearer id:secret.with.dots", None),
        ("Bearer abc", None),
        (None, None),
    ],
)
def test_only_what_looks_like_a_signed_token_is_one(header: str | None, token: str | None) -> None:
    assert provider_token(header) == token


@pytest.mark.long
def test_without_a_sign_in_its_library_is_not_imported() -> None:
    code = """
import sys
import serve_app.ingress.deployment
print({"authlib"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
