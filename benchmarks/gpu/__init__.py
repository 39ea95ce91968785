"""What a GPU must be asked in the first minutes that there is one, as a list of sections.

    python -m benchmarks.gpu --out DIR                   # run 1, at most nine minutes
    python -m benchmarks.gpu --out DIR --part 2          # run 2, at most nine minutes
    python -m benchmarks.gpu --device cpu --tiny         # that the sections work

Random weights of the real sizes (``benchmarks.real_sizes``): no network, no weights. Each section
has a limit of time, and so has the run. Its figures are written to ``DIR/SECTION.json`` as they
come, and a run skips what is done there. A process of its own runs the sections; it is ended at a
limit, so that a long compilation costs the figure it was at and nothing else.

It runs with the torch that is there. A machine without a package index is carried wheels of what
the first line says is missing: `pip download --no-deps --only-binary=:all:` for its Python, with
the versions of ``constraints.txt``.
"""
