"""Options that built-in families read: others would be ignored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from serve_app.options.mistakes import Place, unknown_key

OPTIONS_OF_FAMILIES = frozenset(
    {
        "adapter",
        "adapters",
        "arguments",
        "artifacts_field",
        "audio_format",
        "drafts",
        "dtype",
        "dtypes",
        "fixed",
        "guidance_rescale",
        "images",
        "inputs",
        "max_sequence_length",
        "media_type",
        "multiple",
        "native_size",
        "pipeline",
        "result",
        "solver",
        "step_cache",
        "task",
        "tiling",
        "unless_empty",
        "video",
        "video_format",
    }
)
"""Keys of ``options`` that a built-in family, or a schema, reads."""

BUILT_IN_FAMILIES = frozenset({"audio", "flux", "flux2", "generic", "sdxl", "video"})
"""Other families are an operator's own code, which reads any options."""


def unknown_options(family: str, options: Iterable[str]) -> Iterator[tuple[Place, str]]:
    """Place and sentence of each option that the family does not read, and would ignore."""
    if family not in BUILT_IN_FAMILIES:
        return
    for name in options:
        if name not in OPTIONS_OF_FAMILIES:
            yield ("options", name), unknown_key(name, OPTIONS_OF_FAMILIES)
