"""Simulation of Darkroom on many GPUs: where a part of the control plane is full, and what cells
change. ``python -m benchmarks.fleet``; see benchmarks/fleet/README.md."""
