"""Makes the demo models: tiny real diffusers pipelines, trained on synthetic worlds.

`python -m training` trains and examines each of them. `image`, `video` and `audio` are a world
each: `world` says what exists, `phrasing` how people ask for it, `checker` judges what a model made
by its pixels or its waveform alone, `exam` asks for what training never saw, and `recipe` is the
way to the model. The modules here are what worlds share: colours, outlines and words, tokenizers,
the training loop and its randomness, and the shelf that a finished pipeline is put on.
"""
