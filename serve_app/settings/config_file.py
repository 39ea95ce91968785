"""Reader of Serve configuration files, for ``darkroom serve --config`` and ``serve deploy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from serve_app.domain.errors import Misconfigured

IMPORT_PATH = "serve_app.app:build"

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Darkroom's part of a Serve configuration."""

    arguments: dict[str, Any]  # arguments of the application, by the field names of ``Config``
    host: str | None
    port: int | None
    rest: Fields = field(default_factory=dict[str, Any])  # of the file, without applications


def read(path: Path) -> ConfigFile:
    """Read ``path``. Raises ``Misconfigured`` with the file, and the line if YAML reports one."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} cannot be read: {error}.") from None
    return _parse(text, path)


def _parse(text: str, path: Path) -> ConfigFile:
    """The configuration in ``text``. ``path``: for messages, otherwise as ``read``."""
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Misconfigured(f"{path}{line} is not YAML: {error.problem}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # or a date in a 13th month
        raise Misconfigured(f"{path} is not YAML: {error}.") from None
    applications = _fields(content, path, "").get("applications")
    if not isinstance(applications, list):
        raise Misconfigured(
            f"{path} has no list of `applications`. Use a file that `serve deploy` accepts."
        )
    ours = [
        fields
        for app in cast("list[object]", applications)
        if (fields := _fields(app, path, "An application of ")).get("import_path") == IMPORT_PATH
    ]
    if len(ours) != 1:
        raise Misconfigured(
            f"{path} should have one application with `import_path: {IMPORT_PATH}`; "
            f"it has {len(ours)}."
        )
    http = _fields(cast("Fields", content).get("http_options") or {}, path, "http_options of ")
    return ConfigFile(
        arguments=dict(_fields(ours[0].get("args") or {}, path, "args of ")),
        host=_read_host(http, path),
        port=_read_port(http, path),
        rest={k: v for k, v in cast("Fields", content).items() if k != "applications"},
    )


def _fields(value: object, path: Path, what: str) -> Fields:
    if not isinstance(value, dict):
        raise Misconfigured(f"{what}{path} should be a mapping, not {type(value).__name__}.")
    return cast("Fields", value)


def _read_host(http: Fields, path: Path) -> str | None:
    host = http.get("host")
    if host is not None and not isinstance(host, str):
        raise Misconfigured(f"http_options.host of {path} should be str.")
    return host


def _read_port(http: Fields, path: Path) -> int | None:
    port = http.get("port")
    if port is None or (type(port) is int and 1 <= port <= 65535):  # True is no port
        return port
    raise Misconfigured(f"http_options.port of {path} should be a number from 1 to 65535.")
