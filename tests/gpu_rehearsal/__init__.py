"""Rehearsal of the runs on a GPU machine that is lent for minutes, on a machine without a GPU.

What travels there is an archive of HEAD and wheels. It has no network, and packages of its own
(``packages.txt``). ``scripts/gpu_rehearsal`` builds that environment and runs in it, on the CPU,
what will run there.
"""
