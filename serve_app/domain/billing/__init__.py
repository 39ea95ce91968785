"""Prices, budgets, and sums of usage."""
