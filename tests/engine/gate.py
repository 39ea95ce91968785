"""Holds an engine's thread, so that what is submitted meanwhile is all there when it goes on."""

import threading

from deployments.engine.loop.options import GenerationOptions


class Gate:
    """Closed when it is made."""

    def __init__(self, engine):
        self._opened = threading.Event()
        name = f"gate {id(self)}"
        engine.add(name, self._wait)
        self._generation = engine.submit(pipeline=name, options=GenerationOptions(priority=100))

    def open(self):
        self._opened.set()
        self._generation.result(60)

    def _wait(self):
        assert self._opened.wait(60)
