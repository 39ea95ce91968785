"""Makes the demo models: tiny real diffusers pipelines, trained from nothing on a synthetic world.

`palette`, `outline` and `world` say what exists in that world, `phrasing` how people ask for it,
`checker` judges a picture by its pixels alone. `vae`, `text`, `flux` and `trainer` make the model.
"""
