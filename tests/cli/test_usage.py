"""``darkroom usage``."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
from click.testing import CliRunner

from serve_app.cli.main import main
from tests.wire.served import served

PROBE = "test/probe"


def test_usage_is_shown_as_a_table_as_json_and_as_csv(tmp_path: Path) -> None:
    with served(prices={PROBE: {"unit": "request", "amount": "0.25"}}) as address:
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
        assert together == "Together 0.50 USD."
        assert json.loads(darkroom("--by", "tenant", "--json"))["results"][0]["tenant"] == "default"
        assert darkroom("--by", "day", "--by", "key", "--csv").startswith("day,key_id,requests,")
