"""Which endpoint a client of another protocol means by the name of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.errors import Unsupported
from serve_app.ingress.endpoint_fields import EndpointFields


def named(catalog: Catalog, aliases: Mapping[str, str], name: str) -> CatalogEntry:
    """The endpoint of this id or alias; ``EndpointNotFound`` and ``EndpointNotServed`` as the
    catalogue's own."""
    return catalog.get(aliases.get(name, name))


def capable(
    catalog: Catalog, entry: CatalogEntry, needs: Collection[str], tasks: tuple[str, ...], what: str
) -> CatalogEntry:
    """``entry`` if its input has one of the fields ``needs``; else its sibling that has.

    fal's ids tell siblings by their last part: what ``fal-ai/fast-sdxl`` draws,
    ``fal-ai/fast-sdxl/image-to-image`` redraws; ``tasks`` are the last parts to try, in order.
    ``Unsupported`` says that ``what`` cannot be done, and which endpoints can.
    """
    if EndpointFields(entry).first(*needs):
        return entry
    endpoint_id = entry.endpoint.id
    for task in tasks:
        for sibling in (f"{endpoint_id}/{task}", f"{endpoint_id.rpartition('/')[0]}/{task}"):
            found = catalog.find(sibling)
            if found is not None and EndpointFields(found).first(*needs):
                return catalog.get(sibling)
    able = [
        each.endpoint.id
        for each in catalog
        if not each.missing and any(name in EndpointFields(each) for name in needs)
    ]
    which = f"These can: {', '.join(able)}." if able else "No endpoint that is served here can."
    raise Unsupported(f"{endpoint_id} cannot {what}. {which}")
