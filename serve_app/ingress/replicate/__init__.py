"""Replicate's protocol, as a translation onto ``submission``."""
