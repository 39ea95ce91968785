"""The version of the code, by which an upgrade replaces what runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.telemetry.version import code_version, package_version


@pytest.fixture
def package_folder(tmp_path: Path) -> Path:
    """A folder with the package of an installation."""
    (tmp_path / "serve_app" / "queue").mkdir(parents=True)
    (tmp_path / "serve_app" / "queue" / "lease.py").write_text("LEASE_S = 30\n")
    return tmp_path


def test_the_version_names_the_package_and_its_code() -> None:
    number, _, code = code_version().partition("+")
    assert number == package_version()
    assert len(code) == 12
    assert code_version() == code_version()


def test_a_changed_file_is_another_version(package_folder: Path) -> None:
    before = code_version(package_folder)
    (package_folder / "serve_app" / "queue" / "lease.py").write_text("LEASE_S = 20\n")
    assert code_version(package_folder) != before


def test_a_file_of_another_name_is_another_version(package_folder: Path) -> None:
    before = code_version(package_folder)
    folder = package_folder / "serve_app" / "queue"
    (folder / "lease.py").rename(folder / "leases.py")
    assert code_version(package_folder) != before


def test_what_python_compiles_and_what_lies_beside_the_packages_does_not_count(
    package_folder: Path,
) -> None:
    before = code_version(package_folder)
    compiled = package_folder / "serve_app" / "queue" / "__pycache__"
    compiled.mkdir()
    (compiled / "lease.cpython-311.pyc").write_bytes(b"\0")
    (package_folder / "README.md").write_text("Changed.\n")
    assert code_version(package_folder) == before
