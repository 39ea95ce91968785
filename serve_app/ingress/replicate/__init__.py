"""Replicate's protocol, as a translation to ``submission``."""
