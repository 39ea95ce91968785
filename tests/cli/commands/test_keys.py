"""Commands about keys and tenants, against a Darkroom with fakes behind real HTTP."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import httpx

from serve_app.cli.commands.keys import own_name
from tests.wire.served import Address


def test_a_key_has_the_scopes_endpoints_and_end_that_were_asked_for(darkroom: Any) -> None:
    options = ("--scope", "submit", "--scope", "read", "--endpoint", "fal-ai/flux/*")
    created = darkroom("keys", "create", "thumbnails", *options, "--expires-in", "12h")
    key_id = created.stdout.partition(":")[0]
    (line,) = [row for row in darkroom("keys", "list").stdout.splitlines() if key_id in row]
    for words in ("read, submit", "thumbnails", "fal-ai/flux/*"):
        assert words in line
    listed = json.loads(darkroom("keys", "list", "--json").stdout)["keys"]
    (key,) = [entry for entry in listed if entry["key_id"] == key_id]
    begin, end = [datetime.fromisoformat(key[name]) for name in ("created_at", "expires_at")]
    assert abs(end - begin - timedelta(hours=12)) < timedelta(minutes=1)


def test_a_key_without_a_name_has_that_of_its_maker(darkroom: Any) -> None:
    key_id = darkroom("keys", "create").stdout.partition(":")[0]
    listed = json.loads(darkroom("keys", "list", "--json").stdout)["keys"]
    (name,) = [entry["alias"] for entry in listed if entry["key_id"] == key_id]
    assert name == own_name()
    assert re.fullmatch(r".+@.+", name)


def test_a_rotation_prints_only_the_new_key(darkroom: Any) -> None:
    old = darkroom("keys", "create", "the web app").stdout.partition(":")[0]
    fresh = darkroom("keys", "rotate", old, "--overlap", "1h").stdout
    assert fresh.count("\n") == 1
    assert not fresh.startswith(old)
    assert "rotated before" in darkroom("keys", "rotate", old, fails=True).stderr


def test_a_link_signs_one_browser_in(darkroom: Any, address: Address) -> None:
    printed = darkroom("keys", "link").stdout.strip()
    origin, _, token = printed.partition("/#link=")
    assert origin == address.url
    take = f"{address.url}/v1/sign-in/links/take"
    assert httpx.post(take, json={"token": token}, timeout=30).status_code == 201
    assert httpx.post(take, json={"token": token}, timeout=30).status_code == 401
    elsewhere = ("--at", "https://gpu.example.org/", "--expires-in", "10m", "--json")
    answer = json.loads(darkroom("keys", "link", *elsewhere).stdout)
    assert answer["url"].startswith("https://gpu.example.org/#link=")
    assert "from 1m to 7d" in darkroom("keys", "link", "--expires-in", "30d", fails=True).stderr


def test_a_tenant_is_created_changed_disabled_and_enabled(darkroom: Any) -> None:
    darkroom("tenants", "create", "studio-a", "--name", "Studio A", "--limit", "max_running=4")
    shown = darkroom("tenants", "show", "studio-a").stdout
    for line in ("Tenant +studio-a", "Name +Studio A", "Disabled +–", "Valid keys +0"):
        assert re.search(f"^{line}$", shown, re.MULTILINE)
    assert re.search(r"^    max_running +4 +api$", shown, re.MULTILINE)
    assert re.search(r"^    retention_days +– +default$", shown, re.MULTILINE)
    darkroom("tenants", "set", "studio-a", "--limit", "weight=2.5", "--limit", "max_running=")
    limits = json.loads(darkroom("tenants", "show", "studio-a", "--json").stdout)["limits"]
    assert limits["weight"] == {"value": 2.5, "source": "api"}
    assert limits["max_running"] == {"value": None, "source": "default"}
    disabled = darkroom("tenants", "disable", "studio-a", "--cancel").stdout
    assert disabled == "studio-a is disabled. What is queued is being cancelled.\n"
    listed = darkroom("tenants", "list").stdout
    assert "DISABLED" in listed
    assert re.search(r"studio-a +Studio A +\d{4}-\d\d-\d\d .* 2\.5 ", listed)
    assert darkroom("tenants", "enable", "studio-a").stdout == "studio-a is enabled.\n"


def test_a_limit_may_be_a_word(darkroom: Any) -> None:
    darkroom("tenants", "create", "studio-c", "--limit", "files=private")
    shown = json.loads(darkroom("tenants", "show", "studio-c", "--json").stdout)
    assert shown["limits"]["files"] == {"value": "private", "source": "api"}
    darkroom("tenants", "set", "studio-c", "--limit", "files=")
    shown = json.loads(darkroom("tenants", "show", "studio-c", "--json").stdout)
    assert shown["limits"]["files"] == {"value": "public", "source": "default"}


def test_a_wrong_limit_is_named(darkroom: Any) -> None:
    typed = darkroom("tenants", "create", "studio-d", "--limit", "max_running=four", fails=True)
    assert "limits.max_running" in typed.stderr
    wrong = darkroom("tenants", "create", "studio-b", "--limit", "max_running", fails=True)
    assert "max_running=4" in wrong.stderr
    endless = darkroom("tenants", "create", "studio-b", "--limit", "max_running=inf", fails=True)
    assert "max_running=inf has no number" in endless.stderr
    wrong = darkroom("tenants", "create", "studio-b", "--limit", "most=4", fails=True)
    assert "most" in wrong.stderr


def test_a_budget_is_set_shown_and_removed(darkroom: Any) -> None:
    words = ("--budget", "200 EUR/month", "--warn-at", "0.5", "--warn-at", "0.8", "--only-warn")
    darkroom("tenants", "create", "spender", *words)
    shown = darkroom("tenants", "show", "spender").stdout
    assert "amount 200, currency EUR, period month, warn_at 0.5, 0.8, stop no" in shown
    budget = json.loads(darkroom("tenants", "show", "spender", "--json").stdout)["budget"]
    assert budget["warn_at"] == [0.5, 0.8]
    darkroom("tenants", "set", "spender", "--budget", "0.25 USD/day")
    assert "amount 0.25, currency USD" in darkroom("tenants", "show", "spender").stdout
    darkroom("tenants", "set", "spender", "--name", "Spender")
    assert "amount 0.25, currency USD" in darkroom("tenants", "show", "spender").stdout
    darkroom("tenants", "set", "spender", "--budget", "")
    assert "amount" not in darkroom("tenants", "show", "spender").stdout


def test_a_budget_that_cannot_be_read_says_how_to_write_it(darkroom: Any) -> None:
    for wrong in ("200", "200 EUR/week", "200 euros/month"):
        result = darkroom("tenants", "set", "default", "--budget", wrong, fails=True)
        assert "should be such as '200 EUR/month'" in result.stderr
    result = darkroom("tenants", "set", "default", "--warn-at", "0.5", fails=True)
    assert "need --budget" in result.stderr
