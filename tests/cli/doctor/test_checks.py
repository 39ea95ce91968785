"""``darkroom doctor storage`` as typed by a user."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.cli.main import main
from serve_app.storage.s3.location import S3Location
from tests.fakes.broken_s3 import HANG, Says, broken_s3
from tests.storage.conftest import moto_server, s3rver_server
from tests.storage.s3_servers import S3Server

__all__ = ["moto_server", "s3rver_server"]

EVERY_STEP = [
    "bucket",
    "put",
    "get",
    "range",
    "missing",
    "unchanged",
    "multipart",
    "presigned put",
    "presigned get",
    "presigned delete",
    "delete",
]

Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Exit status and output, with these settings of S3 in the environment."""

    def run(*words: str, **settings: str) -> tuple[int, str]:
        for name, value in settings.items():
            monkeypatch.setenv(f"DARKROOM_S3_{name.upper()}", value)
        words = words or ("doctor", "storage")
        result = CliRunner().invoke(main, [*words, "--data-dir", str(tmp_path)])
        return result.exit_code, " ".join(result.output.split())

    return run


def reaching(server: S3Server, location: S3Location, **changes: str) -> dict[str, str]:
    return {
        "bucket": location.bucket,
        "endpoint_url": server.url,
        "region": "us-east-1",
        "access_key_id": server.key.access_key_id,
        "secret_access_key": server.key.secret_access_key,
        **changes,
    }


def test_the_directory_is_tried(typed: Typed, tmp_path: Path) -> None:
    status, said = typed()
    assert (status, "No problems found." in said) == (0, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["moto", "s3rver"])
def test_all_that_is_done_with_s3_is_tried_and_nothing_stays(
    typed: Typed, name: str, request: pytest.FixtureRequest
) -> None:
    server: S3Server = request.getfixturevalue(f"{name}_server")
    location = server.new_bucket()
    status, said = typed(**reaching(server, location))
    assert (status, "No problems found." in said) == (0, True), said
    assert [step for step in EVERY_STEP if f"ok {step}:" in said] == EVERY_STEP
    assert server.client().list_objects_v2(Bucket=location.bucket)["KeyCount"] == 0


def test_the_whole_examination_looks_at_the_storage_too(
    typed: Typed, moto_server: S3Server
) -> None:
    location = moto_server.new_bucket()
    _, said = typed("doctor", **reaching(moto_server, location))
    assert f"ok storage: {location.description}" in said
    _, said = typed("doctor", **reaching(moto_server, location, bucket="nowhere"))
    assert "PROBLEM storage: There is no bucket nowhere" in said


def test_both_doctors_report_the_same_in_json(typed: Typed) -> None:
    for words in (("doctor",), ("doctor", "storage")):
        status, said = typed(*words, "--json")
        printed = json.loads(said)
        assert status == printed["problems"] == sum(not each["ok"] for each in printed["findings"])
        assert {"name", "ok", "said"} == set(printed["findings"][0])


def test_a_store_that_knows_no_conditions_is_named_as_such(
    typed: Typed, s3rver_server: S3Server
) -> None:
    _, said = typed(**reaching(s3rver_server, s3rver_server.new_bucket()))
    assert "the store ignores If-None-Match" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bucket": "nowhere"}, "There is no bucket nowhere at"),
        ({"secret_access_key": "wrong"}, "rejects the signature"),
        ({"access_key_id": "nobody"}, "does not accept the credentials"),
        ({"endpoint_url": "http://127.0.0.1:1"}, "cannot be reached"),
        ({"prefix": "../up"}, "DARKROOM_S3_PREFIX"),
    ],
)
def test_what_is_wrong_is_said_once(
    typed: Typed, moto_server: S3Server, changes: dict[str, str], sentence: str
) -> None:
    status, said = typed(**reaching(moto_server, moto_server.new_bucket(), **changes))
    assert status == 1
    assert sentence in said


def test_a_skewed_clock_is_said(typed: Typed, moto_server: S3Server) -> None:
    assert moto_server.strict is not None
    location = moto_server.new_bucket()
    moto_server.strict.skew = timedelta(hours=2)
    try:
        status, said = typed(**reaching(moto_server, location))
    finally:
        moto_server.strict.skew = timedelta()
    assert (status, "clock of this machine differs" in said) == (1, True)


def test_a_public_endpoint_that_cannot_be_reached_is_said(
    typed: Typed, moto_server: S3Server
) -> None:
    settings = reaching(moto_server, moto_server.new_bucket(), downloads="redirect")
    status, said = typed(**settings, public_endpoint_url="http://127.0.0.1:1")
    assert status == 1
    assert "PROBLEM presigned get: http://127.0.0.1:1 cannot be reached" in said
    assert "DARKROOM_S3_PUBLIC_ENDPOINT_URL" in said


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (HANG, "does not answer in time"),
        (Says(403, "AccessDenied"), "may not do s3:PutObject"),
        (
            Says(400, "AuthorizationHeaderMalformed", headers={"x-amz-bucket-region": "eu-west-3"}),
            "Set DARKROOM_S3_REGION",
        ),
        (Says(405, "MethodNotAllowed"), "DARKROOM_S3_PATH_STYLE=0"),
    ],
)
def test_what_a_store_refuses_is_said(typed: Typed, answer: Says | str, sentence: str) -> None:
    with broken_s3(after=answer) as broken:
        status, said = typed(
            bucket="pics", endpoint_url=broken.url, access_key_id="a", secret_access_key="b"
        )
    assert status == 1
    assert sentence in said
