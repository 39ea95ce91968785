"""The next world of the image models: 256 pixels, nine shapes, one to four objects.

The shipped weights know the world of `training.world`. The weights that are trained on this one
replace them when the exam says that they are better (ADR 0004). The modules have the same names and
the same tasks as those of `training`.
"""
