"""Attacks on a real Darkroom, by tenants, by callers without a key, and by what it calls.

``scripts/attack`` runs all of them and says of each what held. Those that are not ``long`` run with
the other tests of the cluster.
"""
