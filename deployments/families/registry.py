"""Built-in families by import path. Importing this module imports no family."""

FAMILIES: dict[str, str] = {
    "audio": "deployments.families.audio:AudioFamily",
    "flux": "deployments.families.flux:FluxFamily",
    "flux2": "deployments.families.flux2:Flux2Family",
    "generic": "deployments.families.generic:GenericFamily",
    "sdxl": "deployments.families.sdxl:SdxlFamily",
    "video": "deployments.families.video:VideoFamily",
}

ON_ONE_DEVICE = frozenset({"audio", "sdxl"})
"""Built-in families whose models cannot be computed by several devices together."""
