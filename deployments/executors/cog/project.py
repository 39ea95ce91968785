"""A folder with a ``cog.yaml``: what of it can be served without Docker."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

from serve_app.domain.errors import Misconfigured
from serve_app.options.mistakes import validate

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


def _own_variable(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
        raise ValueError(f"{text} is not of the form NAME=value")
    if _OURS.fullmatch(name):
        raise ValueError(f"{name} is set by Darkroom. Leave it out")
    return text


class _Keys(BaseModel):
    """Keys of a file by Cog. Those without a value are as if they were not there."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _with_values(cls, keys: Any) -> Any:
        if not isinstance(keys, Mapping):
            return keys
        return {name: value for name, value in keys.items() if value is not None}


class _Build(_Keys):
    """Keys of ``build`` that count without an image, or that are refused."""

    gpu: bool = False
    python_packages: list[str] = []
    python_requirements: str = ""
    python_version: str = ""
    sdk_version: str = ""
    pre_install: list[Any] = []
    run: list[Any] = []
    system_packages: list[Any] = []


class _CogFile(_Keys):
    build: _Build = _Build()
    concurrency: dict[str, Annotated[int, Field(ge=0, strict=True)]] = {}
    environment: list[Annotated[str, AfterValidator(_own_variable)]] = []
    predict: str = Field(default="", validation_alias=AliasChoices("run", "predict"))
    train: str = ""
    weights: Any = None


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
    file = _read(folder / FILE)
    build = file.build
    _check_image(build, prepared=prepared)
    notes = [*_python_notes(build)]
    notes += [
        f"{FILE}: build.{key} has no effect without an image. What the packages and the machine "
        "have counts."
        for key in sorted(build.model_extra or ())
    ]
    if file.weights:
        raise Misconfigured(
            f"{FILE}: weights: Cog would put them into the image. Load them in setup() instead."
        )
    targets = {mode: getattr(file, mode) for mode in ("predict", "train") if getattr(file, mode)}
    if not targets:
        raise Misconfigured(
            f"{FILE} has neither `run` nor `predict`, which name the predictor, such as "
            "`predict: predict.py:Predictor`."
        )
    return CogProject(
        targets=targets,
        requirements=(*_packages(build, notes), *_requirements(folder, build)),
        needs_gpu=build.gpu,
        concurrency=file.concurrency.get("max", 0),
        environment=dict(variable.split("=", 1) for variable in file.environment),
        notes=tuple(notes),
    )


def _read(path: Path) -> _CogFile:
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise Misconfigured(
            f"{FILE}{line} is no YAML: {getattr(error, 'problem', None) or error}"
        ) from error
    if not isinstance(document, Mapping):
        raise Misconfigured(f"{FILE} must have keys such as `build` and `predict`.")
    try:
        return validate(_CogFile, document)
    except ValueError as error:
        raise Misconfigured(f"{FILE}: {error}.") from None


def _check_image(build: _Build, *, prepared: bool) -> None:
    for key in ("system_packages", "run", "pre_install"):
        values: Sequence[Any] = getattr(build, key)
        if values and not prepared:
            first = values[0]
            shown = first.get("command") if isinstance(first, Mapping) else first
            raise Misconfigured(
                f"{FILE}: build.{key} ({str(shown)[:80]}{', …' if len(values) > 1 else ''}) needs "
                "a Docker image, which Darkroom does not build. If the machines of the pool have "
                "it already, deploy with --prepared. Or build the image with Cog, run it, and "
                "deploy its address with --cog-server."
            )


def _python_notes(build: _Build) -> Sequence[str]:
    version = build.python_version
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not version or version == here or version.startswith(here + "."):
        return ()
    return (f"cog.yaml asks for Python {version}. It runs with Python {here}, as Darkroom does.",)


def _packages(build: _Build, notes: list[str]) -> Sequence[str]:
    version = build.sdk_version
    if not version:
        return (PACKAGES,)
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if numbers < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        notes.append(
            f"cog.yaml asks for Cog {version}. It runs with a newer one, at least {least}."
        )
        return (PACKAGES,)
    return (f"cog=={version}",)


def _requirements(folder: Path, build: _Build) -> Sequence[str]:
    name = build.python_requirements
    if name and build.python_packages:
        raise Misconfigured(
            f"{FILE} has both build.python_packages and build.python_requirements. Keep one."
        )
    if not name:
        return build.python_packages
    path = folder / name
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
