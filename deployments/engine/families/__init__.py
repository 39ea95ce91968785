"""The families of models that the engine knows: what is declared about their classes, as data."""
