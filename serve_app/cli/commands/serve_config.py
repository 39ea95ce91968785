"""``darkroom serve-config``: configuration for ``serve deploy`` with an application per pool."""

from __future__ import annotations

from pathlib import Path

import yaml

from serve_app.settings import config_file

HEADER = """\
# Written by `darkroom serve-config`. Change the file that it was written from, and write it again.
# {path} is watched: its limits, catalogue and bounds of pools are in force within seconds.
"""


def serve_config(source: Path, installed_as: Path | None) -> str:
    """Serve configuration from ``source``, as YAML.

    ``installed_as``: path of ``source`` on the head node, if it is another. Raises
    ``Misconfigured``.
    """
    from serve_app.app import applications  # noqa: PLC0415 imports Ray

    path = (installed_as or source).absolute()
    file = config_file.read(source)
    entries = [each.entry for each in applications(file.arguments, path).values()]
    content = {**file.rest, "applications": entries}
    return HEADER.format(path=path) + yaml.safe_dump(content, sort_keys=False)
