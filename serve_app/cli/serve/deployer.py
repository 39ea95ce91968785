"""Deployment of the Serve applications by ``darkroom serve``, again whenever a pool changes.

Limits, the catalogue and the bounds of pools are not its concern: the ingress watches the same file
for them, without a deployment.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.domain.errors import Misconfigured
from serve_app.settings import APPLICATION, config_file

if TYPE_CHECKING:
    from serve_app.app import ServeApplication

LOOK_EVERY_S = 1.0


class Deployer:
    """Applications of one installation on this machine. Needs a running Ray Serve."""

    def __init__(self, file: Path | None, overrides: Mapping[str, Any]) -> None:
        """``file``: Serve configuration file. ``overrides``: settings in place of its arguments."""
        self._file = file
        self._overrides = dict(overrides)
        self._deployed: Mapping[str, ServeApplication] = {}
        self._read: bytes | None = None  # content of the file that was deployed
        self._done = threading.Event()

    def deploy(self) -> None:
        """Deploy all applications and wait until they run.

        Raises ``Misconfigured``, or ``RuntimeError`` with Serve's reason.
        """
        self._read = self._content()
        applications = self._applications()
        self._publish_bounds()
        _run(applications.values(), wait=True)
        self._deployed = applications

    def follow(self, echo: Callable[[str], None]) -> None:
        """Start a thread that deploys the pools that the file changes, and deletes those that it no
        longer has. ``echo``: gets a line for each."""
        if self._file is not None:
            threading.Thread(target=self._follow, args=(echo,), daemon=True, name="deploy").start()

    def stop(self) -> None:
        self._done.set()

    def _follow(self, echo: Callable[[str], None]) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            content = self._content()
            if content is None or content == self._read:
                continue
            self._read = content
            try:
                self._redeploy(echo)
            except Misconfigured as error:
                echo(f"{error.message} Nothing is deployed.")
            except Exception as error:  # Serve's; the next change of the file tries again
                echo(f"The changed pools could not be deployed: {error}")

    def _redeploy(self, echo: Callable[[str], None]) -> None:
        from ray import serve  # noqa: PLC0415 Ray reads its flags when it is imported

        before, applications = self._deployed, self._applications()
        changed = [
            app
            for name, app in applications.items()
            if name != APPLICATION and (name not in before or before[name].args != app.args)
        ]
        if before[APPLICATION].args != applications[APPLICATION].args:
            echo("Settings changed that take effect only when `darkroom serve` starts again.")
        for application in changed:
            echo(f"Deploying {application.name}, whose settings changed …")
        _run(changed, wait=False)
        for name in before.keys() - applications.keys():
            echo(f"Removing {name} …")
            serve.delete(name, _blocking=False)
        self._deployed = {**applications, APPLICATION: before[APPLICATION]}

    def _content(self) -> bytes | None:
        try:
            return None if self._file is None else self._file.read_bytes()
        except OSError:
            return None  # an editor may be replacing it

    def _applications(self) -> Mapping[str, ServeApplication]:
        from serve_app.app import applications  # noqa: PLC0415

        return applications(self._settings(), self._file)

    def _publish_bounds(self) -> None:
        """Write the bounds of the pools, so that their replicas start beside the ingress.

        A pool has none before, and so no replica. The ingress writes them too, but starts for some
        seconds first.
        """
        from serve_app.app import checked_config  # noqa: PLC0415
        from serve_app.ingress.services.live_settings import bounds_of  # noqa: PLC0415
        from serve_app.scaling.demand import publish_bounds  # noqa: PLC0415

        config = checked_config(self._settings())
        asyncio.run(publish_bounds(str(config.server.data_dir), bounds_of(config)))

    def _settings(self) -> Mapping[str, Any]:
        """Settings of the file, and those in place of them. Raises ``Misconfigured``."""
        arguments = {} if self._file is None else config_file.read(self._file).arguments
        return {**arguments, **self._overrides}


def _run(applications: Any, *, wait: bool) -> None:
    from ray import serve  # noqa: PLC0415

    targets = [
        serve.RunTarget(
            target=application.target, name=application.name, route_prefix=application.route_prefix
        )
        for application in applications
    ]
    if targets:
        serve.run_many(targets, wait_for_applications_running=wait)
