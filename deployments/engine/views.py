"""Other pipelines over weights that are loaded already."""

from __future__ import annotations

import inspect
from typing import Any


def view_of(pipeline: Any, kind: type) -> Any:
    """A pipeline of class ``kind`` with the components and settings of ``pipeline``.

    Takes about a millisecond and no memory to speak of. Not ``from_pipe``: that converts the
    components, which others are using, to one dtype.
    """
    has = {**pipeline.config, **pipeline.components}
    takes = inspect.signature(kind.__init__).parameters
    view = kind(**{name: value for name, value in has.items() if name in takes})
    view.set_progress_bar_config(disable=True)
    return view
