"""Sums of usage, its roll-up, and the hours of replicas."""
