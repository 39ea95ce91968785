"""What a GPU decides in a quarter of an hour: one command, one answer.

    python -m benchmarks.gpu --out DIR                   # plan A, at most 8.5 minutes
    python -m benchmarks.gpu --out DIR --second          # plan B, at most 4 minutes
    python -m benchmarks.gpu --device cpu --tiny         # that the sections work

Random weights of the real sizes (``benchmarks.real_sizes``): no network, no weights. Each section
has its baseline in the same process, and a limit of time, and so has the run. All of it is written
to ``DIR/results.json`` as it comes: figures by section, and a verdict for every switch of ADR 0036.
A run skips what is done there. A process of its own runs the sections; it is ended at a limit, so
that a long compilation costs the figure it was at and nothing else. Its log is ``DIR/log.txt``.

It runs with the torch that is there, and with a replica's settings of the allocator. A machine
without a package index is carried wheels of diffusers and greenlet: ``scripts/gpu_rehearsal``.
"""
