"""Mark of AI-generated files: IPTC's digital source type, which programs read without Darkroom.

It is an XMP packet in PNG, JPEG, WebP, GIF, MP4, WAV and MP3, and a tag in WebM, FLAC and Ogg. The
mark says nothing of the prompt, the model or the request, and is the same in every file. Files that
apps have written have their description in the same packet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.domain.media.file_metadata import Searchable

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for what a model made that was trained on samples."""

TAG = "DigitalSourceType"
"""Name of the tag in formats without XMP."""

_MARK = f"<Iptc4xmpExt:{TAG}>{TRAINED_ALGORITHMIC_MEDIA}</Iptc4xmpExt:{TAG}>"


def xmp_packet(description: str = "", *, marked: bool = True) -> str:
    """XMP packet with the mark, and with ``description`` (``FileMetadata.text()``) if given."""
    namespace = described = ""
    if description:
        namespace = ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        text = f'<rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt>'
        described = f"<dc:description>{text}</dc:description>"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f'{namespace} xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        "<xmp:CreatorTool>Darkroom</xmp:CreatorTool>"
        f"{_MARK if marked else ''}{described}"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


XMP = xmp_packet()
"""XMP packet of every marked file of a pipeline, which has its description elsewhere."""


GENERATION = "org.darkroom.generation"
"""Label of the assertion in C2PA manifests that says what made the file."""

SIGNED_TYPES = frozenset(
    {
        *("image/png", "image/jpeg", "image/webp", "image/gif"),
        *("video/mp4", "audio/wav", "audio/mpeg", "audio/flac"),
    }
)
"""Media types with a place for a C2PA manifest. WebM and Ogg have none."""


class MarkPolicy(StrEnum):
    """What must be true of the files of a request."""

    OFF = "off"  # not marked
    ON = "on"  # marked, and signed if the installation signs; what fails is logged
    REQUIRED = "required"  # the same, and a file without is not delivered


@dataclass(frozen=True, slots=True)
class Marking:
    """Policy of the installation, and those of tenants that have their own."""

    policy: MarkPolicy = MarkPolicy.ON
    by_tenant: Mapping[str, MarkPolicy] = field(default_factory=dict[str, MarkPolicy])

    def of(self, tenant: str) -> MarkPolicy:
        return self.by_tenant.get(tenant, self.policy)


def is_marked(content: Searchable) -> bool:
    """Return whether a file has the mark. C2PA manifests contain the same term, so they count."""
    return content.find(TRAINED_ALGORITHMIC_MEDIA.encode()) >= 0
