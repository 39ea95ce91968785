"""The families that Darkroom brings along, by import path: naming one imports nothing."""

FAMILIES: dict[str, str] = {
    "flux": "deployments.flux:FluxFamily",
    "sdxl": "deployments.sdxl:SdxlFamily",
}
