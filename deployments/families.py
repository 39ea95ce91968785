"""The families that Darkroom brings along, by import path: naming one imports nothing."""

FAMILIES: dict[str, str] = {
    "audio": "deployments.audio:AudioFamily",
    "flux": "deployments.flux:FluxFamily",
    "flux2": "deployments.flux2:Flux2Family",
    "generic": "deployments.generic:GenericFamily",
    "sdxl": "deployments.sdxl:SdxlFamily",
    "video": "deployments.video:VideoFamily",
}

ON_ONE_DEVICE = frozenset({"audio", "sdxl"})
"""Of these, those with no model that several devices can compute together."""
