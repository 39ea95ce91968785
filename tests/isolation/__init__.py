"""Mutation of the conditions that keep tenants apart: `scripts/mutate_tenants`."""
