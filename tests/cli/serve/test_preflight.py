"""Problems that prevent the start are reported in one sentence."""

import resource
import socket
import stat
from importlib.metadata import version
from pathlib import Path

import pytest

from serve_app.cli.connection.installation import Installation
from serve_app.cli.serve import ports
from serve_app.cli.serve.server import ServeCommand
from serve_app.diagnosis import checks as diagnosis
from serve_app.domain.errors import Misconfigured
from serve_app.free_ports import free_port
from serve_app.settings import read_config


def test_a_data_directory_is_made_with_its_parents_and_for_its_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    ports.check_data_dir(directory)
    assert directory.stat().st_mode & 0o077 == 0
    assert list(directory.iterdir()) == []


def test_other_users_lose_their_rights_on_a_data_directory_of_an_earlier_version(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o755)
    ports.check_data_dir(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755, "nothing in it is Darkroom's"
    (tmp_path / "artifacts").mkdir()
    ports.check_data_dir(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_file_in_place_of_the_data_directory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Misconfigured, match="is a file"):
        ports.check_data_dir(file)
    with pytest.raises(Misconfigured, match="not a directory"):
        ports.check_data_dir(file / "below")


def test_a_data_directory_that_cannot_be_written_is_named() -> None:
    with pytest.raises(Misconfigured, match="/proc/darkroom cannot be written"):
        ports.check_data_dir(Path("/proc/darkroom"))


def test_too_little_free_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(Misconfigured, match="Free some space"):
        ports.check_data_dir(tmp_path)


def test_ray_s_files_need_a_place_that_can_be_made_and_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Misconfigured, match="/proc/darkroom, for Ray's files, cannot be created"):
        ports.check_run_dir(Path("/proc/darkroom"))
    monkeypatch.setattr(ports, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(Misconfigured, match="for Ray's files; Darkroom needs"):
        ports.check_run_dir(tmp_path / "run")


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"Port {port} on 127.0.0.1 is in use"):
            ports.check_port("127.0.0.1", port)


def test_a_free_port_passes() -> None:
    ports.check_port("127.0.0.1", free_port())


def test_an_address_that_is_not_of_this_machine_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"203\.0\.113\.1 cannot be opened"):
        ports.check_port("203.0.113.1", 8000)


def test_a_host_that_is_no_text_is_named() -> None:
    with pytest.raises(Misconfigured, match="not the name of a host"):
        ports.check_port("\udcff", free_port())


def test_a_socket_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o777)
    run_dir.chmod(0o777)
    with pytest.raises(Misconfigured, match="Another user owns"):
        ports.check_run_dir(run_dir)


def test_a_mistake_in_the_catalogue_ends_the_start_before_anything_is_started(
    tmp_path: Path,
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("endpoints:\n  me/mine:\n    famly: flux\n")
    data_dir = tmp_path / "data"
    config = read_config({"data_dir": data_dir, "models": models, "gpus": 0})
    server = ServeCommand(Installation(data_dir), config, "127.0.0.1", 8000)
    with pytest.raises(Misconfigured, match=r"models\.yaml.*famly.*did you mean `family`"):
        server.check()
    assert list(data_dir.iterdir()) == []
    models.write_text("endpoints: {}\n")
    server.check()


@pytest.mark.long
@pytest.mark.skipif("cuda" in version("torch"), reason="this torch may find the GPU")
def test_a_gpu_that_torch_cannot_use_ends_the_start_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(**settings: object) -> None:
        config = read_config({"data_dir": tmp_path / "data", "gpus": 1, **settings})
        ServeCommand(Installation(tmp_path / "data"), config, "127.0.0.1", 8000).check()

    monkeypatch.setattr(diagnosis, "GPU_FILES", tmp_path)
    check()  # `gpus` is set, and there is none
    (tmp_path / "nvidia0").touch()
    check(demo=True)
    with pytest.raises(Misconfigured, match=r"torch .* cannot use a GPU: .*CUDA.*serve --demo"):
        check()


def test_a_working_directory_that_was_deleted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports.check_working_dir()
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(Misconfigured, match="has been deleted"):
        ports.check_working_dir()


def test_too_few_open_files_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ports.check_open_files()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    with pytest.raises(Misconfigured, match=r"only 256 files.*ulimit"):
        ports.check_open_files()
