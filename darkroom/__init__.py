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
of an app's own can hold it.
"""

from darkroom.app import App, AppError, EndpointMethod, InvalidField, endpoint
from darkroom.calls import Cancelled, progress
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
