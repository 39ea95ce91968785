"""What only a GPU can show. Without one, all of it is skipped.

    python3 -m pytest -c /dev/null --noconftest -p no:cacheprovider tests/gpu

It needs torch, diffusers, greenlet and what these need, but neither a cluster nor pytest's plugins.
``DARKROOM_GPU_TESTS_DEVICE=cpu`` runs on a CPU what makes sense there, to see that the tests
themselves are right.
"""
