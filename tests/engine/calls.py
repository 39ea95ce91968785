"""Small calls of the tiny pipelines."""

import torch

SIDE = 16  # pixels


def call(prompt="a red circle", seed=1, steps=3, **more):
    """Arguments of a pipeline; makes a new random generator each time."""
    return {
        "prompt": prompt,
        "width": SIDE,
        "height": SIDE,
        "num_inference_steps": steps,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "pt",
        **more,
    }


def run_without_engine(pipeline, **arguments):
    """What the pipeline makes without an engine."""
    return pipeline(**call(**arguments)).images
