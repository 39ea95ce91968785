"""Makes the demo models: tiny real diffusers pipelines, trained from nothing on a synthetic world.

`palette`, `outline` and `world` say what exists in that world, `phrasing` how people ask for it,
`checker` judges an image by its pixels alone. `vae`, `text`, `reading` and `trainer` make what the
image models share, `flux` and `recipe` the one, `clip_pair`, `sdxl` and `sdxl_recipe` the other.
`video` and `audio` are worlds of their own, each with its model, and `attributes` teaches both to
read. `image` is the larger world that follows this one.
"""
