"""``darkroom usage``."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from click.testing import CliRunner

from serve_app.cli.accounting.usage import report_lines
from serve_app.cli.main import main
from tests.wire.served import serve

PROBE = "test/probe"


def test_usage_is_shown_as_a_table_as_json_and_as_csv(tmp_path: Path) -> None:
    with serve(prices={PROBE: {"unit": "request", "amount": "0.25"}}) as address:
        (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
        (tmp_path / "api_key").write_text(address.key)

        def darkroom(*words: str) -> str:
            result = CliRunner().invoke(main, ["usage", *words, "--data-dir", str(tmp_path)])
            assert result.exit_code == 0, result.output
            return result.stdout

        assert darkroom() == "Nothing was used in this time.\n"
        headers = {"Authorization": f"Key {address.key}"}
        for _ in range(2):
            url = f"{address.url}/{PROBE}"
            httpx.post(url, headers=headers, json={}, trust_env=False).raise_for_status()
        head, row, together = darkroom().splitlines()
        assert head.split() == ["endpoint", "requests", "successes", "images", "seconds", "cost"]
        assert row.split()[:3] == [PROBE, "2", "2"]
        assert together == "Total: 0.5000 USD."
        assert json.loads(darkroom("--by", "tenant", "--json"))["results"][0]["tenant"] == "default"
        printed = darkroom("--by", "day", "--by", "key", "--csv")
        query = {"by": "day,key"}
        served = httpx.get(
            f"{address.url}/v1/usage.csv", params=query, headers=headers, trust_env=False
        )
        assert printed.startswith("day,key_id,requests,")
        assert printed.splitlines() == served.text.splitlines()  # its lines end with CR LF
        both = ["usage", "--csv", "--json", "--data-dir", str(tmp_path)]
        refused = CliRunner().invoke(main, both)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "--csv and --json" in refused.stderr
        assert darkroom("report").splitlines() == [
            "No replica ran in this time.",
            "Total: 0.0 GPU hours, 0.0 busy, 0.0 idle; 0.00 USD.",
            "At fal's list prices: 0.00 USD.",
        ]


def test_the_report_names_what_has_no_cost() -> None:
    hours = {"paid_hours": 10.0, "busy_hours": 4.0, "idle_hours": 6.0}
    row = {"requests": 3, "currency": "EUR"}
    answer = {
        **hours,
        "currency": "EUR",
        "cost": 5.0,
        "fal_cost": 3.0,
        "pools": [{**hours, "pool": "studio", "gpu": "L4", "cost": None}],
        "endpoints": [
            {**row, "endpoint_id": "a/b", "cost": 3.0},
            {**row, "endpoint_id": "c/d", "cost": None},
        ],
    }
    assert [*report_lines(answer)] == [
        "pool studio, L4: 10.0 GPU hours, 4.0 busy, 6.0 idle; no cost is set",
        "Total: 10.0 GPU hours, 4.0 busy, 6.0 idle; 5.00 EUR.",
        "a/b: 3 requests, at fal's prices 3.00 EUR",
        "At fal's list prices: 3.00 EUR; 1 without a price in DARKROOM_FAL_PRICES.",
    ]
