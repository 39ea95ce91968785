"""Calls about weights that tenants register."""
