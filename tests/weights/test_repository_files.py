"""One file of a repository: from the store, or from its sources."""

import pytest

from serve_app.domain.errors import WeightsUnavailable
from tests.weights.conftest import COMMIT, NAME, WEIGHTS
from weights.repository_files import RepositoryFiles

IN_STORE, BESIDES = "vae/diffusion_pytorch_model.safetensors", "small.safetensors"


def write_file(store, path, tmp_path, revision=COMMIT):
    files = RepositoryFiles(store)
    listing = files.listing(NAME, revision)
    (file,) = [candidate for candidate in listing.files if candidate.path == path]
    into = tmp_path / "file"
    into.touch()
    files.write(listing, file, into)
    return into.read_bytes()


@pytest.fixture
def filled_store(store):
    with store.open(WEIGHTS):
        return store


def test_a_file_that_no_pipeline_loads_comes_alone(store, hub, repository, tmp_path):
    content = write_file(store, BESIDES, tmp_path, revision=None)
    assert content == (repository / BESIDES).read_bytes()
    assert len(hub.downloads(".safetensors")) == 1
    assert not (store.directory / "models--house--small" / "blobs").exists()


def test_what_is_in_the_store_is_not_fetched_again(
    filled_store, make_store, hub, repository, tmp_path
):
    hub.asked.clear()
    for store in (filled_store, make_store(offline=True)):
        content = write_file(store, IN_STORE, tmp_path)
        assert content == (repository / IN_STORE).read_bytes()
    assert hub.asked == []


def test_a_damaged_file_of_the_store_is_not_handed_out(filled_store, repository, tmp_path):
    file = filled_store.directory / "models--house--small" / "snapshots" / COMMIT / IN_STORE
    file.write_bytes(bytes(file.stat().st_size))
    assert write_file(filled_store, IN_STORE, tmp_path) == (repository / IN_STORE).read_bytes()


def test_offline_a_branch_is_what_the_hubs_library_has_noted(
    filled_store, make_store, hub, repository, tmp_path
):
    offline = make_store(offline=True)
    with pytest.raises(WeightsUnavailable, match="owner/name@commit"):
        write_file(offline, IN_STORE, tmp_path, revision=None)
    refs = filled_store.directory / "models--house--small" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    content = write_file(offline, IN_STORE, tmp_path, revision=None)
    assert content == (repository / IN_STORE).read_bytes()
    with pytest.raises(WeightsUnavailable, match="downloads are disabled"):
        write_file(offline, BESIDES, tmp_path)
