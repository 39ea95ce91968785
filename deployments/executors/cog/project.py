"""A folder with a ``cog.yaml``: what of it can be served without Docker."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from serve_app.domain.errors import Misconfigured

FILE = "cog.yaml"

LEAST_VERSION = (0, 23, 1)
PACKAGES = "cog>=0.23.1,<0.24"
"""Cog's own packages where ``sdk_version`` does not name a version: what the tests run with."""

_LOCAL_FILES = (".whl", ".zip", ".gz", ".tgz", ".bz2", ".xz")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = re.compile(
    r"PATH|PORT|HOME|TMPDIR|(LD_|PYTHON|DARKROOM_|COG_(PREDICT|TRAIN)_TYPE_STUB"
    r"|COG_LOG_LEVEL|COG_MAX_CONCURRENCY|COG_THROTTLE_RESPONSE_INTERVAL).*"
)
"""Variables that a project does not set."""

USED = frozenset(
    {
        *("gpu", "python_packages", "python_requirements", "python_version", "sdk_version"),
        *("pre_install", "run", "system_packages"),
    }
)
"""Keys of ``build`` that count without an image, or that are refused."""


@dataclass(frozen=True, slots=True)
class CogProject:
    """A project, as its ``cog.yaml`` describes it."""

    targets: Mapping[str, str]  # mode → FILE.py:NAME
    requirements: tuple[str, ...]
    needs_gpu: bool
    concurrency: int  # 0: as the predictor says
    environment: Mapping[str, str]
    notes: tuple[str, ...]  # what is different from Cog's own image, as sentences


def read_project(folder: Path, *, prepared: bool = False) -> CogProject:
    """Project in ``folder``. ``Misconfigured`` names the key of what cannot be served.

    ``prepared``: the machines have what the image would have besides Python packages.
    """
    given = _read(folder / FILE)
    build = _object(given, "build")
    _check_image(build, prepared=prepared)
    notes = [*_python_notes(build)]
    notes += [
        f"{FILE}: build.{key} has no effect without an image. What the packages and the machine "
        "have counts."
        for key in sorted(set(build) - USED)
    ]
    if given.get("weights"):
        raise Misconfigured(
            f"{FILE}: weights: Cog would put them into the image. Load them in setup() instead."
        )
    targets = {
        mode: str(target)
        for mode, target in (
            ("predict", given.get("run") or given.get("predict")),
            ("train", given.get("train")),
        )
        if target
    }
    if not targets:
        raise Misconfigured(
            f"{FILE} has neither `run` nor `predict`, which name the predictor, such as "
            "`predict: predict.py:Predictor`."
        )
    return CogProject(
        targets=targets,
        requirements=(*_packages(build, notes), *_requirements(folder, build)),
        needs_gpu=bool(build.get("gpu")),
        concurrency=_concurrency(given),
        environment=_environment(given),
        notes=tuple(notes),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise Misconfigured(
            f"{FILE}{line} is no YAML: {getattr(error, 'problem', None) or error}"
        ) from error
    if not isinstance(given, Mapping):
        raise Misconfigured(f"{FILE} must have keys such as `build` and `predict`.")
    return cast("Mapping[str, Any]", given)


def _object(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key) or {}
    if not isinstance(value, Mapping):
        raise Misconfigured(f"{FILE}: {key} must have keys of its own.")
    return cast("Mapping[str, Any]", value)


def _list(given: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = given.get(key) or []
    if not isinstance(value, list):
        raise Misconfigured(f"{FILE}: build.{key} must be a list.")
    return cast("list[Any]", value)


def _check_image(build: Mapping[str, Any], *, prepared: bool) -> None:
    for key in ("system_packages", "run", "pre_install"):
        wanted = _list(build, key)
        if wanted and not prepared:
            first = wanted[0]
            shown = first.get("command") if isinstance(first, Mapping) else first  # pyright: ignore
            raise Misconfigured(
                f"{FILE}: build.{key} ({str(shown)[:80]}{', …' if len(wanted) > 1 else ''}) needs "
                "a Docker image, which Darkroom does not build. If the machines of the pool have "
                "it already, deploy with --prepared. Or build the image with Cog, run it, and "
                "deploy its address with --cog-server."
            )


def _python_notes(build: Mapping[str, Any]) -> Sequence[str]:
    wanted = str(build.get("python_version") or "")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not wanted or wanted == here or wanted.startswith(here + "."):
        return ()
    return (f"cog.yaml asks for Python {wanted}. It runs with Python {here}, as Darkroom does.",)


def _packages(build: Mapping[str, Any], notes: list[str]) -> Sequence[str]:
    wanted = str(build.get("sdk_version") or "")
    if not wanted:
        return (PACKAGES,)
    numbers = tuple(int(each) for each in re.findall(r"\d+", wanted)[:3])
    if numbers < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        notes.append(f"cog.yaml asks for Cog {wanted}. It runs with a newer one, at least {least}.")
        return (PACKAGES,)
    return (f"cog=={wanted}",)


def _requirements(folder: Path, build: Mapping[str, Any]) -> Sequence[str]:
    listed = [str(each) for each in _list(build, "python_packages")]
    name = build.get("python_requirements")
    if name and listed:
        raise Misconfigured(
            f"{FILE} has both build.python_packages and build.python_requirements. Keep one."
        )
    if not name:
        return listed
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Misconfigured(f"{FILE}: build.python_requirements is outside of the folder: {name}")
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise Misconfigured(
            f"{FILE}: build.python_requirements: {name} cannot be read: {error.strerror}"
        ) from error
    return [
        _requirement(f"{name}:{number}", stripped)
        for number, line in enumerate(lines, 1)
        if (stripped := re.sub(r"(^|\s)#.*", "", line).strip())
    ]


def _requirement(where: str, line: str) -> str:
    first = line.split(maxsplit=1)[0]
    if first in ("-r", "--requirement", "-c", "--constraint", "-e", "--editable"):
        raise Misconfigured(
            f"{where}: {first} names another file or folder, which the replicas do not have. Write "
            "the packages here."
        )
    if line.startswith((".", "/")) or first.endswith(_LOCAL_FILES):
        raise Misconfigured(
            f"{where}: {line} is a file of this machine, which the replicas do not have. Publish "
            "the package, or put its code into the folder."
        )
    return line


def _concurrency(given: Mapping[str, Any]) -> int:
    most = _object(given, "concurrency").get("max", 0)
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise Misconfigured(f"{FILE}: concurrency.max must be a whole number.")
    return most


def _environment(given: Mapping[str, Any]) -> Mapping[str, str]:
    listed: Any = given.get("environment") or []
    if not isinstance(listed, list):
        raise Misconfigured(f"{FILE}: environment must be a list such as ['NAME=value'].")
    found: dict[str, str] = {}
    for each in cast("list[Any]", listed):
        name, equals, value = str(each).partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            raise Misconfigured(f"{FILE}: environment: {each} is not of the form NAME=value.")
        if _OURS.fullmatch(name):
            raise Misconfigured(f"{FILE}: environment: {name} is set by Darkroom. Leave it out.")
        found[name] = value
    return found
