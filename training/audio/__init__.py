"""Makes the demo audio model: a tiny `StableAudioPipeline` for tones, sweeps and beeps.

`world` says what exists, `phrasing` how people ask for it, `checker` judges audio by its spectrum
alone. `vae`, `text` and `stable_audio` are the model, `recipe` the way to it, `exam` its held-out
prompts.
"""
