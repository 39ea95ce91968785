"""The desktop's viewer for files and URLs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

PROGRAMS = ("xdg-open", "open")  # Linux, macOS
WAIT_S = 5.0
"""Time in seconds in which a viewer that cannot start says so. One that runs on has started."""

NO_VIEWER = "There is no viewer on this machine that opens them."


def open_in_viewer(places: Sequence[str], programs: Sequence[str] = PROGRAMS) -> bool:
    """Open each file or URL, without the viewer's own output. False if one could not be opened."""
    viewer = next((path for program in programs if (path := shutil.which(program))), None)
    return viewer is not None and all(_opens(viewer, place) for place in places)


def _opens(program: str, place: str) -> bool:
    quiet = subprocess.DEVNULL
    try:
        started = subprocess.Popen(  # noqa: S603 found on the path; no shell
            [program, place], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        return started.wait(WAIT_S) == 0
    except subprocess.TimeoutExpired:
        return True
    except OSError:
        return False
