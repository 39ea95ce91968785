"""Numbers as options are finite."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from serve_app.cli.main import main


@pytest.mark.parametrize("number", ["nan", "inf", "1e300"])
@pytest.mark.parametrize(
    "command",
    [
        ("fsck", "--grace-hours"),
        ("drain-node", "--within"),
        ("top", "--interval"),
    ],
)
def test_a_number_that_no_clock_counts_to_is_refused(command: tuple[str, ...], number: str) -> None:
    result = CliRunner().invoke(main, [*command, number])
    assert result.exit_code == 2, result.output
    assert f"Invalid value for '{command[-1]}'" in result.output


@pytest.mark.parametrize(
    "words", [("weights", "add", "a", "b/c", "--base", "d", "--scale"), ("tune", "--minutes")]
)
def test_a_number_that_json_does_not_have_is_refused(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "nan"])
    assert result.exit_code == 2, result.output
    assert "nan is not a finite number" in result.output


def test_an_address_that_is_none_of_ray_is_named() -> None:
    result = CliRunner().invoke(main, ["drain-node", "--address", "nope"])
    assert result.exit_code == 1
    assert "nope is no address of Ray's GCS. Use --address HOST:PORT." in result.output
