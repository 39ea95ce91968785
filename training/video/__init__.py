"""Makes the demo video model: a tiny `WanPipeline` for videos of one flat object that moves.

`world` says what exists, `phrasing` how people ask for it, `checker` judges a video by its pixels
alone. `vae`, `text` and `wan` are the model, `recipe` and `larger_recipe` the way to it, `exam` its
held-out prompts.
"""
