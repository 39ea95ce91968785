"""Makes the demo Flux and the demo SDXL: 256 pixels, nine shapes, one to four objects.

`vae`, `text`, `reading` and `examples` make what both share, `flux` and `recipe` the one,
`clip_pair`, `sdxl` and `sdxl_recipe` the other. Both go on from the shipped weights (ADR 0004).
"""
