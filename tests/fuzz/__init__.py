"""Damaged inputs for the real readers of files and bodies."""
