"""``darkroom doctor storage`` as typed by a user."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.cli.main import main
from serve_app.domain.media.file_access import AccessDecision, FileAccess
from serve_app.storage.keys import artifact_key, upload_key
from serve_app.storage.s3.location import S3Location
from tests.fakes.broken_s3 import HANG, Says, broken_s3
from tests.storage.conftest import moto_server, s3rver_server, swift_server
from tests.storage.s3_servers import S3Server

__all__ = ["moto_server", "s3rver_server", "swift_server"]

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
    "lifecycle",
    "delete",
]

Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
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


def test_the_directory_is_tried(doctor: Typed, tmp_path: Path) -> None:
    status, output = doctor()
    assert (status, "No problems found." in output) == (0, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.variants(1)
@pytest.mark.parametrize("name", ["moto", "s3rver", "swift"])
def test_all_that_is_done_with_s3_is_tried_and_nothing_stays(
    doctor: Typed, name: str, request: pytest.FixtureRequest
) -> None:
    server: S3Server = request.getfixturevalue(f"{name}_server")
    location = server.new_bucket()
    status, output = doctor(**reaching(server, location))
    assert (status, "No problems found." in output) == (0, True), output
    assert [step for step in EVERY_STEP if f"ok {step}:" in output] == EVERY_STEP
    assert server.client().list_objects_v2(Bucket=location.bucket)["KeyCount"] == 0


@pytest.mark.long
def test_the_settings_of_a_configuration_file_are_tried(
    doctor: Typed, tmp_path: Path, moto_server: S3Server
) -> None:
    location = moto_server.new_bucket()
    settings = reaching(moto_server, location)
    own = {f"s3_{name}": settings.pop(name) for name in ("bucket", "endpoint_url", "region")}
    file = tmp_path / "darkroom.yaml"
    application = {"import_path": "serve_app.app:build", "args": own}
    file.write_text(json.dumps({"applications": [application]}))  # which is YAML too
    status, output = doctor("doctor", "storage", "--config", str(file), **settings)
    assert (status, "ok presigned put:" in output) == (0, True), output
    _, output = doctor("doctor", "--config", str(file))
    assert f"ok storage: {location.description}" in output
    _, output = doctor("storage", "lifecycle", "--config", str(file))
    assert location.bucket in output


@pytest.mark.long
def test_the_whole_examination_looks_at_the_storage_too(
    doctor: Typed, moto_server: S3Server
) -> None:
    location = moto_server.new_bucket()
    _, output = doctor("doctor", **reaching(moto_server, location))
    assert f"ok storage: {location.description}" in output
    _, output = doctor("doctor", **reaching(moto_server, location, bucket="nowhere"))
    assert "PROBLEM storage: There is no bucket nowhere" in output


def test_both_doctors_report_the_same_in_json(doctor: Typed) -> None:
    for words in (("doctor",), ("doctor", "storage")):
        status, output = doctor(*words, "--json")
        printed = json.loads(output)
        assert (
            status
            == printed["problems"]
            == sum(not finding["ok"] for finding in printed["findings"])
        )
        assert {"name", "ok", "message"} == set(printed["findings"][0])


def test_a_store_that_knows_no_conditions_is_named_as_such(
    doctor: Typed, s3rver_server: S3Server
) -> None:
    _, output = doctor(**reaching(s3rver_server, s3rver_server.new_bucket()))
    assert "the store ignores If-None-Match" in output


@pytest.mark.variants(1)
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
    doctor: Typed, moto_server: S3Server, changes: dict[str, str], sentence: str
) -> None:
    status, output = doctor(**reaching(moto_server, moto_server.new_bucket(), **changes))
    assert status == 1
    assert sentence in output


@pytest.mark.long
def test_encryption_is_asked_for_and_confirmed(doctor: Typed, moto_server: S3Server) -> None:
    settings = reaching(moto_server, moto_server.new_bucket(), encryption="aws:kms")
    status, output = doctor(**settings)
    assert (status, "replicas can upload, encrypted by aws:kms, to" in output) == (0, True), output
    assert moto_server.strict is not None
    moto_server.strict.forget = frozenset({"x-amz-server-side-encryption"})
    try:
        status, output = doctor(**settings)
    finally:
        moto_server.strict.forget = frozenset()
    assert (status, "PROBLEM bucket: " in output) == (1, True)
    assert "without encrypting it as asked" in output


@pytest.mark.long
def test_locations_of_tenants_are_tried_too(
    doctor: Typed, moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = moto_server.new_bucket().bucket
    path = tmp_path / "locations.yaml"
    path.write_text(f"acme: {{bucket: {bucket}}}\nborg: {{bucket: nowhere}}\n")
    monkeypatch.setenv("DARKROOM_STORAGE_LOCATIONS", str(path))
    status, output = doctor(**reaching(moto_server, moto_server.new_bucket()))
    assert f"ok acme: bucket: the bucket {bucket}" in output
    assert "PROBLEM borg: bucket: There is no bucket nowhere" in output
    assert status == 1


def rules_in(server: S3Server, bucket: str) -> dict[str, dict[str, str]]:
    rules = server.client().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    return {rule["ID"]: rule["Filter"] for rule in rules}


@pytest.mark.long
def test_lifecycle_rules_are_printed_installed_and_looked_for(
    doctor: Typed, moto_server: S3Server
) -> None:
    location = moto_server.new_bucket()
    settings = reaching(moto_server, location, prefix="art")
    own = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 3},
    }
    moto_server.client().put_bucket_lifecycle_configuration(
        Bucket=location.bucket, LifecycleConfiguration={"Rules": [own]}
    )
    _, output = doctor(**settings)
    assert "ok lifecycle: no darkroom-expire-art-check, darkroom-abort-art: `darkroom" in output
    status, printed = doctor("storage", "lifecycle", **settings)
    assert status == 0
    assert [rule["ID"] for rule in json.loads(printed)["Rules"]] == [
        "darkroom-expire-art-check",
        "darkroom-abort-art",
    ]
    assert list(rules_in(moto_server, location.bucket)) == ["theirs"]
    _, output = doctor("storage", "lifecycle", "--install", **settings)
    assert "darkroom-abort-art" in output
    assert rules_in(moto_server, location.bucket) == {
        "theirs": {"Prefix": "logs/"},
        "darkroom-expire-art-check": {"Prefix": "art/check/"},
        "darkroom-abort-art": {"Prefix": "art/"},
    }
    _, output = doctor("storage", "lifecycle", "--install", **settings)
    assert "all rules were there" in output
    _, output = doctor(**settings)
    assert "ok lifecycle: the bucket aborts abandoned uploads" in output


def test_the_rules_of_several_prefixes_stay_beside_each_other(
    doctor: Typed, moto_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = moto_server.new_bucket()
    path = tmp_path / "locations.yaml"
    path.write_text("acme: {prefix: acme}\n")
    monkeypatch.setenv("DARKROOM_STORAGE_LOCATIONS", str(path))
    status, output = doctor(
        "storage", "lifecycle", "--install", **reaching(moto_server, location, prefix="art")
    )
    assert status == 0, output
    assert {rule["Prefix"] for rule in rules_in(moto_server, location.bucket).values()} == {
        *("art/", "art/check/", "acme/", "acme/check/")
    }


@pytest.mark.parametrize(
    ("days", "retention", "sentence"),
    [("40", None, "kept for ever"), ("30", "30", "files are kept for 30 days")],
)
def test_rules_never_delete_what_is_kept(
    doctor: Typed,
    moto_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    days: str,
    retention: str | None,
    sentence: str,
) -> None:
    if retention is not None:
        monkeypatch.setenv("DARKROOM_RETENTION_DAYS", retention)
    settings = reaching(moto_server, moto_server.new_bucket(), prefix="art")
    status, output = doctor("storage", "lifecycle", "--expire-days", days, **settings)
    assert (status != 0, sentence in output) == (True, True), output


def test_files_of_requests_expire_after_more_than_the_retention(
    doctor: Typed, moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_RETENTION_DAYS", "30")
    settings = reaching(moto_server, moto_server.new_bucket(), prefix="art")
    _, printed = doctor("storage", "lifecycle", "--expire-days", "60", **settings)
    rules = {rule["ID"]: rule for rule in json.loads(printed)["Rules"]}
    assert rules["darkroom-expire-art-r"]["Expiration"] == {"Days": 60}
    # Clients choose how long their uploads live.
    assert "darkroom-expire-art-u" not in rules
    prefixes = {rule["Filter"]["Prefix"] for rule in rules.values() if "Expiration" in rule}
    access = FileAccess("acme", AccessDecision.FORBID)
    output_key = artifact_key(
        "0195", 1, "image/png", access=access.with_keyed_id(b"x", outputs=True).id
    )
    sent = upload_key("image/png", access=access.with_keyed_id(b"x").id)
    reached = [
        any(f"art/{key}".startswith(prefix) for prefix in prefixes) for key in (output_key, sent)
    ]
    assert reached == [True, False], "private files, too"


def test_without_a_prefix_only_darkrooms_own_folders_have_rules(
    doctor: Typed, moto_server: S3Server
) -> None:
    _, printed = doctor("storage", "lifecycle", **reaching(moto_server, moto_server.new_bucket()))
    prefixes = [rule["Filter"]["Prefix"] for rule in json.loads(printed)["Rules"]]
    assert prefixes == ["check/", "d/", "p/", "r/", "s/", "u/", "w/"]


def test_without_a_bucket_there_are_no_rules(doctor: Typed) -> None:
    status, output = doctor("storage", "lifecycle")
    assert (status != 0, "data directory" in output) == (True, True)


def test_a_skewed_clock_is_said(doctor: Typed, moto_server: S3Server) -> None:
    assert moto_server.strict is not None
    location = moto_server.new_bucket()
    moto_server.strict.skew = timedelta(hours=2)
    try:
        status, output = doctor(**reaching(moto_server, location))
    finally:
        moto_server.strict.skew = timedelta()
    assert (status, "clock of this machine differs" in output) == (1, True)


@pytest.mark.long
def test_a_public_endpoint_that_cannot_be_reached_is_said(
    doctor: Typed, moto_server: S3Server
) -> None:
    settings = reaching(moto_server, moto_server.new_bucket(), downloads="redirect")
    status, output = doctor(**settings, public_endpoint_url="http://127.0.0.1:1")
    assert status == 1
    assert "PROBLEM presigned get: http://127.0.0.1:1 cannot be reached" in output
    assert "DARKROOM_S3_PUBLIC_ENDPOINT_URL" in output


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
def test_what_a_store_refuses_is_said(doctor: Typed, answer: Says | str, sentence: str) -> None:
    with broken_s3(after=answer) as broken:
        status, output = doctor(
            bucket="pics", endpoint_url=broken.url, access_key_id="a", secret_access_key="b"
        )
    assert status == 1
    assert sentence in output
