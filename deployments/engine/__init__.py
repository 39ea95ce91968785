"""Runs several generations of unmodified diffusers pipelines on one device, step by step.

A library: it knows neither Ray nor the queue. ``engine`` owns the thread, ``interception`` and
``stand_in`` make a pipeline's denoiser calls visible, ``step_batcher`` decides whose turn it is.
"""
