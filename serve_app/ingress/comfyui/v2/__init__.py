"""Comfy API v2: workflows as jobs, and their files as assets."""
