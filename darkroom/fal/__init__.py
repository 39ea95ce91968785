"""Hosts apps written for fal, in an environment with the real package ``fal``.

It needs the standard library and ``fal`` only, whatever pydantic the app asks for.
"""
