"""Makes the demo models: tiny real diffusers pipelines, trained from nothing on a synthetic world.

`palette`, `outline` and `world` say what exists in that world, `phrasing` how people ask for it,
`checker` judges a picture by its pixels alone. `vae`, `text`, `reading` and `trainer` make what the
picture models share, `flux` and `recipe` the one, `video_pair`, `sdxl` and `sdxl_recipe` the other.
`video` and `sound` are worlds of their own, each with its model, and `attributes` teaches both to
read.
"""
