"""Built-in families by import path. Importing this module imports no family."""

FAMILIES: dict[str, str] = {
    "audio": "deployments.families.audio:AudioFamily",
    "flux": "deployments.families.flux:FluxFamily",
    "flux2": "deployments.families.flux2:Flux2Family",
    "generic": "deployments.families.generic:GenericFamily",
    "sdxl": "deployments.families.sdxl:SdxlFamily",
    "video": "deployments.families.video:VideoFamily",
}
