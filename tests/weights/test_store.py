"""The store against a fake hub: downloads, verification, sharing, resuming and errors."""

import json
import logging
import os
import threading
from contextvars import ContextVar

import pytest
from huggingface_hub import hf_hub_download

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from tests.weights.conftest import COMMIT, INDEX, NAME, NEEDED, WEIGHTS
from tests.weights.hub_server import sha256
from weights import eviction
from weights.source import ByteRange

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def pull(store, weights=WEIGHTS, on_progress=None):
    with store.open(weights, on_progress) as folder:
        return folder


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_what_a_pipeline_needs_is_fetched_and_nothing_else(store, hub, repository):
    folder = pull(store)
    assert names(folder) == sorted(NEEDED)
    assert all((folder / name).read_bytes() == (repository / name).read_bytes() for name in NEEDED)


def test_what_is_here_is_not_asked_for_again(store, hub):
    pull(store)
    hub.asked.clear()
    reported = []
    pull(store, on_progress=lambda *how: reported.append(how))
    assert hub.asked == []
    assert reported == []


def test_the_plan_says_what_is_missing_and_writes_nothing(store, hub, tmp_path):
    plan = store.plan(WEIGHTS)
    assert sorted(file.path for file in plan.files) == sorted(NEEDED)
    assert plan.missing_bytes == plan.total_bytes == sum(file.size for file in plan.files)
    assert plan.files[0].size == 400_000
    assert len(plan.files[0].digest) == 64
    assert plan.free_bytes > 0
    assert not (tmp_path / "store").exists()
    pull(store)
    plan = store.plan(WEIGHTS)
    assert (plan.missing_bytes, plan.missing) == (0, ())


def test_a_variant_is_fetched_beside_what_is_here(store, hub):
    pull(store)
    folder = pull(store, Weights(NAME, COMMIT, variant="fp16"))
    assert (folder / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    assert len(hub.downloads(UNET)) == 1


def test_progress_rises_from_nothing_to_all(store):
    reported = []
    pull(store, on_progress=lambda done, total: reported.append((done, total)))
    total = store.plan(WEIGHTS).total_bytes
    assert reported[0] == (0, total)
    assert reported[-1] == (total, total)
    assert reported == sorted(reported)


def test_what_the_callback_raises_ends_the_download_and_what_came_stays(store, hub, tmp_path):
    class Enough(Exception):
        pass

    def stop(done, total):
        if done > 100_000:
            raise Enough

    with pytest.raises(Enough):
        pull(store, on_progress=stop)
    reported = []
    pull(store, on_progress=lambda *how: reported.append(how[0]))
    assert reported[0] > 100_000


def test_a_broken_connection_goes_on_where_it_ended(store, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.cut_after[UNET] = [250_000]
    folder = pull(store)
    first, second = hub.downloads(UNET)
    assert first.range is None
    assert second.range == "bytes=250000-"
    assert sha256(folder / UNET) == sha256(hub.repositories[NAME][1] / UNET)


def test_a_place_that_knows_no_ranges_sends_it_all_again(store, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.ranges = False
    hub.cut_after[UNET] = [250_000]
    reported = []
    folder = pull(store, on_progress=lambda *how: reported.append(how))
    assert sha256(folder / UNET) == sha256(hub.repositories[NAME][1] / UNET)
    assert reported[-1][0] == reported[-1][1]


def test_wrong_bytes_are_thrown_away_and_fetched_once_more(store, hub):
    hub.wrong[UNET] = 1
    folder = pull(store)
    assert sha256(folder / UNET) == sha256(hub.repositories[NAME][1] / UNET)
    assert len(hub.downloads(UNET)) == 2


def test_what_is_said_of_a_download_is_said_in_the_context_of_who_wants_it(store, hub):
    whose, logged = ContextVar("whose", default=None), []
    log, listener = logging.getLogger("weights"), logging.Handler()
    listener.emit = lambda record: logged.append((record.getMessage(), whose.get()))
    log.addHandler(listener)
    token = whose.set("anna's")
    try:
        hub.wrong[UNET] = 1
        pull(store)
    finally:
        whose.reset(token)
        log.removeHandler(listener)
    assert [
        about for line, about in logged if "does not match its digest after the download" in line
    ] == ["anna's"]


def test_bytes_that_stay_wrong_are_an_error_and_leave_nothing(store, hub):
    hub.wrong[UNET] = 2
    with pytest.raises(WeightsUnavailable, match=r"2 times and never matched"):
        pull(store)
    assert not list((store.directory).rglob(f"{sha256(hub.repositories[NAME][1] / UNET)}*"))


def test_a_small_file_is_checked_by_its_git_id(store, hub):
    hub.wrong["vae/config.json"] = 2
    with pytest.raises(WeightsUnavailable, match=r"vae/config\.json"):
        pull(store)


def test_a_file_that_was_written_later_is_checked_again_and_fetched(store, hub):
    blob = (pull(store) / UNET).resolve()
    damaged = bytearray(blob.read_bytes())
    damaged[1000] ^= 1
    blob.write_bytes(damaged)
    os.utime(blob, (1, 1))
    folder = pull(store)
    assert sha256(folder / UNET) == sha256(hub.repositories[NAME][1] / UNET)


def test_verify_reads_everything_and_throws_the_damaged_away(store, hub):
    blob = (pull(store) / VAE).resolve()
    before = blob.stat()
    damaged = bytearray(blob.read_bytes())
    damaged[7] ^= 1
    blob.write_bytes(damaged)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))  # simulates a faulty disk
    checks = list(store.verify())
    assert {path for _, path, _ in checks} == set(NEEDED)
    assert [path for _, path, right in checks if not right] == [VAE]
    pull(store)
    assert all(right for _, _, right in store.verify())


TWINS = ("text_encoder/model.safetensors", "text_encoder_2/model.safetensors")


def add_twins(repository):
    index = dict(INDEX)
    for twin in TWINS:
        folder = (repository / twin).parent
        folder.mkdir()
        (repository / twin).write_bytes(b"equal" * 40_000)
        (folder / "config.json").write_text("{}")
        index[folder.name] = ["transformers", "CLIPTextModel"]
    (repository / "model_index.json").write_text(json.dumps(index))


def test_files_of_equal_content_are_downloaded_once_and_both_are_there(store, hub, repository):
    add_twins(repository)
    reported = []
    folder = pull(store, on_progress=lambda *how: reported.append(how))
    assert [(folder / twin).read_bytes() for twin in TWINS] == [b"equal" * 40_000] * 2
    assert sum(len(hub.downloads(twin)) for twin in TWINS) == 1
    assert store.is_here(WEIGHTS)
    assert reported[-1][0] == reported[-1][1]
    assert reported == sorted(reported)


def test_damaged_files_of_equal_content_are_downloaded_once_more(store, hub, repository):
    add_twins(repository)
    blob = (pull(store) / TWINS[0]).resolve()
    blob.write_bytes(b"wrong" * 40_000)
    os.utime(blob, (1, 1))
    folder = pull(store)
    assert [(folder / twin).read_bytes() for twin in TWINS] == [b"equal" * 40_000] * 2
    assert sum(len(hub.downloads(twin)) for twin in TWINS) == 2


def test_what_other_programs_have_downloaded_is_checked_and_used(store, hub, tmp_path):
    for name in NEEDED:
        hf_hub_download(NAME, name, revision=COMMIT, cache_dir=tmp_path / "store", endpoint=hub.url)
    hub.asked.clear()
    reported = []
    pull(store, on_progress=lambda *how: reported.append(how))
    assert reported == []
    assert hub.downloads(UNET) == []


def test_other_programs_use_what_the_store_has_fetched(store, hub):
    folder = pull(store)
    path = hf_hub_download(NAME, UNET, revision=COMMIT, cache_dir=store.directory, endpoint=hub.url)
    assert path == str(folder / UNET)


def test_a_disk_that_is_too_small_is_reported_before_anything_is_fetched(store, hub, monkeypatch):
    monkeypatch.setattr(eviction, "free_bytes", lambda _: eviction.SPARE_BYTES + 100_000)
    with pytest.raises(WeightsUnavailable, match=r"0\.5 MB are missing.*DARKROOM_WEIGHTS_DIR"):
        pull(store)
    assert hub.downloads(UNET) == []


def test_a_disk_that_becomes_full_is_reported_and_the_room_is_given_back(store, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ByteRange, "write", full)
    with pytest.raises(WeightsUnavailable, match=r"became full.*DARKROOM_WEIGHTS_DIR"):
        pull(store)
    assert not list(store.directory.rglob("*.part"))


def test_a_directory_that_cannot_be_made_is_reported(make_store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsUnavailable, match="DARKROOM_WEIGHTS_DIR"):
        pull(make_store(directory=tmp_path / "file" / "below"))


@pytest.mark.parametrize("revision", [None, "main", "abc123"])
def test_a_revision_is_a_whole_commit(store, revision):
    with pytest.raises(Misconfigured, match="full commit hash"):
        pull(store, Weights(NAME, revision))


def test_one_fetches_and_the_others_wait_and_see_how_far_it_is(make_store, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.hold_after[UNET] = 200_000
    reported, waiting = [], threading.Event()

    def watch(done, total):
        reported.append((done, total))
        if done >= 200_000:
            waiting.set()

    first = threading.Thread(target=pull, args=(make_store(),))
    first.start()
    assert hub.held.wait(20)
    second = threading.Thread(target=pull, args=(make_store(),), kwargs={"on_progress": watch})
    second.start()
    assert waiting.wait(20)
    hub.go.set()
    first.join(20)
    second.join(20)
    assert len(hub.downloads(UNET)) == 1
    assert not second.is_alive()


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(make_store, hub):
    hub.tokens["secret"] = {NAME}
    pull(make_store(token="secret"))
    assert {request.authorization for request in hub.asked if not request.of_cdn} == {
        "Bearer secret"
    }
    assert {request.authorization for request in hub.asked if request.of_cdn} == {None}


def test_nothing_is_asked_of_the_hub_but_what_is_needed(store, hub):
    pull(store)
    called = {request.path.split("?")[0] for request in hub.asked if not request.of_cdn}
    resolved = {f"/{NAME}/resolve/{COMMIT}/{name}" for name in NEEDED}
    assert called == {f"/api/models/{NAME}/revision/{COMMIT}", *resolved}


def test_the_files_of_a_commit_are_noted_with_their_digests(store, repository):
    folder = pull(store)
    (noted,) = (folder.parents[1] / ".darkroom").glob("listing-*.json")
    digests = {file["path"]: file["digest"] for file in json.loads(noted.read_text())["files"]}
    assert digests[UNET] == sha256(repository / UNET)
