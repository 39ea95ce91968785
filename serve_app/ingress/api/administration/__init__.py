"""Calls about the whole installation: its audit log, and the deletion and export of tenants."""
