"""Run several generations of unmodified diffusers pipelines on one device, step by step.

The engine is a library: it knows neither Ray nor the queue. ``engine`` owns the thread,
``interception`` and ``stand_in`` make the denoiser calls of a pipeline visible, and
``step_batcher`` decides which calls run next.
"""
