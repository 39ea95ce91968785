"""Write your own endpoints in Python: a class with ``setup`` and typed methods.

.. code-block:: python

    import darkroom

    class Greeter(darkroom.App):
        def setup(self) -> None:
            self.word = "Hello"

        @darkroom.endpoint("/")
        def greet(self, name: str) -> dict[str, str]:
            return {"text": f"{self.word}, {name}!"}

``darkroom deploy greeter.py`` serves it. This package needs pydantic only, so that an environment
of an app's own can hold it. Its names are imported when they are used: ``darkroom.fal`` runs in
environments whose pydantic is older than they need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darkroom.app import App, EndpointMethod, endpoint
    from darkroom.calls import Cancelled, progress
    from darkroom.errors import AppError, InvalidField
    from darkroom.files import Audio, File, Image, Video
    from darkroom.running import run

__all__ = [
    "App",
    "AppError",
    "Audio",
    "Cancelled",
    "EndpointMethod",
    "File",
    "Image",
    "InvalidField",
    "Video",
    "endpoint",
    "progress",
    "run",
]

_MODULES = (
    "darkroom.calls",
    "darkroom.errors",
    "darkroom.app",
    "darkroom.files",
    "darkroom.running",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, _MODULES):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
