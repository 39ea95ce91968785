"""Python environments of apps: one for each list of requirements, built once per node and kept."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from serve_app.domain.errors import AppNotStarted, Misconfigured
from weights.lock import RepositoryLock

BASE = ("pydantic>=2.11,<3",)
"""What an environment has besides the app's requirements: what ``darkroom`` itself needs."""

FAL_BASE = ("fal>=1.83,<1.84",)
"""What an environment of an app for fal has: ``darkroom.fal`` uses names that fal does not promise,
and its tests run with these versions."""

Requirements = Sequence[str] | Sequence[Sequence[str]]
"""Packages; or lists of them, of which each is installed after the one before it."""

COMPLETE = ".darkroom-complete"
"""File that is written last, so that an interrupted build is seen and repeated."""

LAST_LINES = 12
"""Lines of the installer's output that an error quotes."""

PIP_LIMIT_S = 60.0
"""Longest time in which pip lists its settings, which usually takes half a second."""

PIP_TO_UV = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
    "constraint": "--constraint",
}
"""pip's settings, which uv does not read, and uv's options for them."""

TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
"""Words of pip's settings that switch something on."""

PASSED = frozenset(
    {
        *("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER"),
        *("CURL_CA_BUNDLE", "NETRC", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
        *("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"),
        *("CC", "CFLAGS", "CPATH", "CUDA_HOME", "CXX", "CXXFLAGS", "LDFLAGS", "LIBRARY_PATH"),
        *("MAX_JOBS", "PKG_CONFIG_PATH", "TORCH_CUDA_ARCH_LIST"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    }
)
PASSED_GROUPS = "PIP_", "UV_"
"""Variables of the replica that an installer gets, and beginnings of others. It runs code of the
packages, so it gets no secret but those of package indexes."""

ELSEWHERE = frozenset(
    {"PIP_DRY_RUN", "PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER", "UV_PREFIX", "UV_TARGET"}
)
"""Those by which the user installs packages in another place, or none. An app would not find them
in its environment."""

BUILD_WITHIN_S = 1800.0
"""Longest time of a build: others wait for it, and an index may be stuck."""


class Environments:
    """Environments in ``directory``, built by uv, or by venv and pip where uv is missing.

    Several processes of a node may share the directory. An environment is used in place, so it is
    never moved.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        within_s: float = BUILD_WITHIN_S,
    ) -> None:
        """``settings``: pip's, by their long names; None: those of this machine."""
        self._within_s = within_s
        self._directory = directory
        self._settings = settings

    async def python(
        self,
        requirements: Requirements | None,
        on_build: Callable[[], None] = lambda: None,
        *,
        for_fal: bool = False,
    ) -> Path:
        """Interpreter of the environment with ``requirements``; it is built if it is missing, after
        a call of ``on_build``. None: Darkroom's own. ``for_fal``: with the package ``fal``, and the
        requirements are arguments of the installer, as they are for fal.

        Raises ``AppNotStarted`` with the installer's last lines.
        """
        if requirements is None:
            return Path(sys.executable)
        folder = self._directory / environment_key(requirements, for_fal=for_fal)
        python = folder / "bin" / "python"
        if not (folder / COMPLETE).is_file():
            on_build()
            async with _hold_lock(folder.with_suffix(".lock")):
                await self._build_environment(folder, python, requirements, for_fal=for_fal)
        os.utime(folder / COMPLETE)  # for whoever removes those that have not been used for long
        return python

    async def _build_environment(
        self, folder: Path, python: Path, requirements: Requirements, *, for_fal: bool
    ) -> None:
        """Build an environment, whose lock is held. ``AppNotStarted`` after ``within_s``."""
        if (folder / COMPLETE).is_file():  # another process has built it meanwhile
            return
        try:
            async with asyncio.timeout(self._within_s):
                await self._build(folder, python, requirements, for_fal=for_fal)
        except TimeoutError:
            base = FAL_BASE if for_fal else BASE
            raise AppNotStarted(
                f"The requirements {_requirements_text(requirements or base)} were not installed "
                f"within {self._within_s:g} s, so the installer was ended. Its index of packages "
                "may not answer, or a package is built for too long: name one that has a wheel."
            ) from None

    async def _build(
        self, folder: Path, python: Path, requirements: Requirements, *, for_fal: bool
    ) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        settings = self._settings
        if settings is None:
            settings = await asyncio.to_thread(pip_settings)
        base = FAL_BASE if for_fal else BASE
        make, install = commands(folder, python, settings)
        await _run(make, settings, requirements or base)
        for number, layer in enumerate(layers(requirements)):
            if for_fal:
                await _run([*install, *base, *layer], settings, layer or base)
                continue
            listed = folder.with_suffix(f".{number}.txt")
            listed.write_text("\n".join((*base, *layer)) + "\n", encoding="utf-8")
            await _run([*install, "-r", str(listed)], settings, layer or base)
        await asyncio.to_thread(_add_library, folder)
        (folder / COMPLETE).touch()


@asynccontextmanager
async def _hold_lock(path: Path) -> AsyncGenerator[None]:
    """Hold the lock of an environment. A wait that is cancelled does not take it later on."""
    lock, given_up = RepositoryLock(path), threading.Event()

    def waiting() -> None:
        if given_up.is_set():
            raise InterruptedError

    taking = asyncio.ensure_future(asyncio.to_thread(lock.take, waiting))
    try:
        await asyncio.shield(taking)
    except asyncio.CancelledError:
        given_up.set()
        taking.add_done_callback(lambda done: (done.exception(), lock.release()))
        raise
    try:
        yield
    finally:
        lock.release()


def layers(requirements: Requirements) -> list[list[str]]:
    """Lists of packages in the order in which they are installed."""
    if all(isinstance(requirement, str) for requirement in requirements):
        return [list(cast("Sequence[str]", requirements))]
    return [
        [requirement] if isinstance(requirement, str) else list(requirement)
        for requirement in requirements
    ]


def environment_key(requirements: Requirements, *, for_fal: bool = False) -> str:
    """Name of an environment: a digest of all that decides what is installed in it."""
    parts = (
        platform.python_version(),
        platform.platform(),
        FAL_BASE if for_fal else BASE,
        [
            requirement if isinstance(requirement, str) else list(requirement)
            for requirement in requirements
        ],
        _library_digest(),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def commands(
    folder: Path, python: Path, settings: Mapping[str, str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Commands that make an empty environment in ``folder``, and that install in it what is
    appended to them."""
    uv = uv_program()
    if uv is None:
        make = [sys.executable, "-m", "venv", str(folder)]
        pip = [str(python), "-m", "pip"]
        if find_spec("pip"):  # this one can install there: a copy of it takes ten seconds
            make.insert(3, "--without-pip")
            pip = [sys.executable, "-m", "pip", "--python", str(python)]
        return make, [*pip, "install", "--quiet"]
    options: list[str] = []
    for name, option in PIP_TO_UV.items():
        for value in settings.get(name, "").split():
            options += [option, value]
    if settings.get("no-index", "").lower() in TRUE:
        options.append("--no-index")
    if settings.get("extra-index-url"):
        options += ["--index-strategy", "unsafe-best-match"]  # as pip, whose settings these are
    return (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), *options],
    )


def uv_program() -> str | None:
    """Path of uv: of Darkroom's own environment, or else on the PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def pip_settings() -> dict[str, str]:
    """Index settings of pip on this machine, from its files and its environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        listed = subprocess.run(  # noqa: S603  our own Python
            command, capture_output=True, text=True, timeout=PIP_LIMIT_S, check=True
        ).stdout
        items = [_SETTING.fullmatch(line) for line in listed.splitlines()]
        entries = [(*item.group(1, 2), ast.literal_eval(item[3])) for item in items if item]
    except (OSError, subprocess.SubprocessError, ValueError, SyntaxError):
        return {}  # pip is not there, or says it in another way: uv's own settings count
    return {
        name: str(value)
        for section in ("global", "install", ":env:")  # each goes before those in front of it
        for of, name, value in entries
        if of == section
    }


_SETTING = re.compile(r"([\w:-]+)\.([\w.-]+)=(.+)")
"""Line of ``pip config list``: section, name, and the value as Python writes it."""


async def _run(
    command: Sequence[str], settings: Mapping[str, str], requirements: Requirements
) -> None:
    # The installer is configured by its own variables, which are none of Darkroom's settings.
    environment = installer_environment({**os.environ, **_variables(settings)})  # noqa: TID251
    if certificates := settings.get("cert"):
        environment.setdefault("SSL_CERT_FILE", certificates)
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    )
    try:
        process = await asyncio.shield(starting)
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process = await starting  # it may run already, although nobody has seen that yet
        with contextlib.suppress(ProcessLookupError):  # also the builds that it has started
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        raise AppNotStarted(
            f"The requirements {_requirements_text(requirements)} cannot be installed: "
            f"{' '.join(lines)}"
        )


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of pip as variables, in place of its files: they may have the places where the user
    installs packages, and pip lets no empty variable go before them."""
    if not settings:
        return {}  # there are none, or no pip is here to list them
    named = {f"PIP_{name.upper().replace('-', '_')}": settings[name] for name in settings}
    return {**named, "PIP_CONFIG_FILE": os.devnull}


def installer_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment of an installer that is started in one with ``variables``."""
    environment = {
        name: variables[name]
        for name in variables
        if (name.upper() in PASSED or name.startswith(PASSED_GROUPS))
        and name not in ELSEWHERE
        and not name.startswith("UV_PUBLISH_")
    }
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    environment["PIP_USER"] = "0"  # also instead of `user = true` in a file of pip's
    if "UV_CACHE_DIR" not in environment and not _has_cache(environment):
        environment["UV_NO_CACHE"] = "1"  # pip does so by itself
    return environment


def _has_cache(environment: Mapping[str, str]) -> bool:
    """Return whether uv can write its cache where it usually is. It fails where it cannot."""
    caches = environment.get("XDG_CACHE_HOME")
    try:
        cache = Path(caches) if caches else Path(environment["HOME"], ".cache")
        cache.mkdir(parents=True, exist_ok=True)
    except (KeyError, OSError):
        return False
    return os.access(cache, os.W_OK)


def _requirements_text(requirements: Requirements) -> str:
    return ", ".join(requirement for layer in layers(requirements) for requirement in layer)


def _library() -> Path:
    """Folder of the package ``darkroom``, which apps import."""
    spec = find_spec("darkroom")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured("The package `darkroom` is not installed beside `deployments`.")
    return Path(next(iter(spec.submodule_search_locations)))


def _library_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(_library().rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _add_library(folder: Path) -> None:
    """Copy ``darkroom`` into the environment: its apps import it, and nothing else of ours."""
    (packages,) = folder.glob("lib/python*/site-packages")
    copied = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_library(), packages / "darkroom", ignore=copied, dirs_exist_ok=True)
