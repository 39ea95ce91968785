"""Files of a replica say that they are AI-generated, by the policy of the lease."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployments.replica.files import check_marks
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import MarkMissing
from serve_app.domain.lease import Lease
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.file_metadata import find
from serve_app.domain.media.marking import TRAINED_ALGORITHMIC_MEDIA, MarkPolicy, is_marked
from tests.captured_logs import CapturedLogs
from tests.deployments.conftest import MakeRig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease
from tests.deployments.replica.test_described_files import files
from tests.deployments.replica.test_previews import FLUX as PREVIEWED
from tests.deployments.replica.test_previews import INPUT, previews
from tests.deployments.replica.test_thumbnails import with_thumbnails

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def under(policy: MarkPolicy, lease: Lease) -> Lease:
    return replace(lease, marking=policy.value)


@pytest.mark.variants(1)
@pytest.mark.parametrize("endpoint_id", [FLUX, WAN, AUDIO])
async def test_each_file_and_thumbnail_has_the_mark_and_nothing_of_the_prompt(
    make_rig: MakeRig, endpoint_id: str
) -> None:
    rig = await make_rig(slots=1, call_timeout_s=20.0)
    lease = with_thumbnails(rig, make_lease(rig, "one", endpoint_id, prompt="a blue star"))
    delivered = await files(rig, under(MarkPolicy.REQUIRED, lease))
    stored = list(rig.storage.objects.values())
    assert len(stored) == 2 * len(delivered)
    for content in stored:
        assert is_marked(content)
        assert find(content) is None
        assert b"blue star" not in content


async def test_an_operator_may_turn_the_mark_off(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=1, call_timeout_s=20.0)
    lease = with_thumbnails(rig, make_lease(rig, "one", FLUX))
    await files(rig, under(MarkPolicy.OFF, lease))
    assert not any(is_marked(content) for content in rig.storage.objects.values())


@pytest.mark.long
async def test_equal_deterministic_requests_give_equal_marked_files(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=1, call_timeout_s=20.0)
    one, two = [
        await files(rig, under(MarkPolicy.ON, make_lease(rig, name, FLUX, alone=True, seed=7)))
        for name in ("one", "two")
    ]
    assert one == two


@pytest.mark.long
async def test_a_preview_has_the_mark(make_rig: MakeRig) -> None:
    rig = await make_rig(report_interval_s=0.05)
    lease = under(MarkPolicy.ON, rig.lease("a", PREVIEWED, **INPUT))
    rig.port.watched.add(lease.key)
    rig.port.offer(lease)
    await rig.outcome(lease.key)
    shown = previews(rig, lease.key)
    assert shown
    assert all(is_marked(preview.image) for preview in shown)


def of_type(body: bytes | Path, media_type: str = "image/png") -> MediaFile:
    return MediaFile(UploadTicket("k", "http://s/k", media_type, 10**8), body)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_file_without_the_mark_fails_only_where_it_is_required(
    tmp_path: Path, caplog: CapturedLogs, on_disk: bool
) -> None:
    (tmp_path / "a").write_bytes(b"pixels")
    plain = of_type(tmp_path / "a" if on_disk else b"pixels")
    with pytest.raises(MarkMissing, match="does not say that it is AI-generated"):
        check_marks([plain], MarkPolicy.REQUIRED)
    check_marks([plain], MarkPolicy.OFF)
    assert not caplog.records
    check_marks([plain], MarkPolicy.ON)
    assert "does not say" in caplog.text


def test_a_draft_needs_no_mark_and_an_empty_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    marked = of_type(b"x" + TRAINED_ALGORITHMIC_MEDIA.encode())
    check_marks([of_type(b"latents", DRAFT_TYPE), marked], MarkPolicy.REQUIRED)
    with pytest.raises(MarkMissing):
        check_marks([of_type(tmp_path / "a")], MarkPolicy.REQUIRED)


async def test_a_family_that_writes_files_without_the_mark_fails_its_request(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig()
    lease = under(MarkPolicy.REQUIRED, rig.lease("one", artifacts=1, content="pixels"))
    rig.port.offer(lease)
    failure = (await rig.outcome(lease.key)).failure
    assert failure is not None
    assert (failure.code, failure.retryable) == ("mark_missing", False)
    assert rig.storage.objects == {}
