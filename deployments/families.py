"""The families that Darkroom brings along: name to import path, so that naming one imports nothing."""

FAMILIES: dict[str, str] = {
    "flux": "deployments.flux:FluxFamily",
}
