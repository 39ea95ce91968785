"""Prices, sums of usage, and what the machines cost."""
