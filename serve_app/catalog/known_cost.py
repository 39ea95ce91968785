"""What a request will cost, where that is known before it runs, and why it is not elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.catalog.fields.fields import COUNT, SEEDS
from serve_app.catalog.fields.pydantic_schema import PydanticSchema
from serve_app.catalog.work import expected_quantities, length_of, requested_work
from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.executors.hosted import PROVIDERS
from serve_app.domain.media.draft import DRAFT, FROM_DRAFT
from serve_app.domain.media.image_size import AUTO
from serve_app.domain.workflows.definition import OPTION, Node, Workflow
from serve_app.domain.workflows.references import INPUT, NotThere, resolve

NUMBERS = frozenset({COUNT, SEEDS})
"""Fields of an input that say how many images it makes."""


@dataclass(frozen=True, slots=True)
class KnownCost:
    """Cost of a request that succeeds. ``unknown``: why it is not known, as a clause; empty: it is.
    ``currency`` is empty for a request that costs nothing."""

    amount: Decimal = Decimal(0)
    currency: str = ""
    unknown: str = ""


def cost_of(
    entry: CatalogEntry, price: Price | None, input: Mapping[str, Any], left: float = 1.0
) -> KnownCost:
    """Cost of a request with this validated input. ``left``: see ``expected_quantities``."""
    unknown = _unknown(entry, price, input)
    if unknown or price is None:
        return KnownCost(unknown=unknown)
    made = expected_quantities(entry.endpoint, input, left)
    return KnownCost(made.cost(price), price.currency)


def _unknown(entry: CatalogEntry, price: Price | None, input: Mapping[str, Any]) -> str:
    endpoint = entry.endpoint
    if price is None:
        if endpoint.family in PROVIDERS:
            return f"{endpoint.id} has no price here, and its provider may ask for money"
        return ""
    match price.unit:
        case PriceUnit.GPU_SECOND:
            return f"{endpoint.id} costs by the GPU second, which is counted while it runs"
        case PriceUnit.SECOND if length_of(input) is None:
            return f"{endpoint.id} costs by the second, and the input does not say how many"
        case PriceUnit.MEGAPIXEL if not _says_size(entry, input):
            return f"{endpoint.id} costs by the megapixel, and the input does not say the size"
        case _:
            return ""


def _says_size(entry: CatalogEntry, input: Mapping[str, Any]) -> bool:
    """Return whether the megapixels of an image are known: at most one in the shape of another,
    unless the code of an app chooses the size."""
    in_shape = input.get("image_size") == AUTO and isinstance(entry.schema, PydanticSchema)
    return in_shape or requested_work(input) is not None


def cost_of_workflow(
    catalog: Catalog,
    prices: Mapping[str, Price | None],
    entry: CatalogEntry,
    input: Mapping[str, Any],
) -> KnownCost:
    """Sum of a workflow's steps, as if those with a condition run. ``prices``: by endpoint."""
    workflow = Workflow.from_json(entry.endpoint.options[OPTION])
    total = KnownCost()
    for node in workflow.nodes.values():
        found = _of_step(catalog.find(node.app), prices.get(node.app), node, input)
        if found.unknown:
            return KnownCost(unknown=f"its step `{node.id}`: {found.unknown}")
        if total.currency and found.currency and total.currency != found.currency:
            both = f"{total.currency} and {found.currency}"
            return KnownCost(unknown=f"its steps have prices in {both}")
        total = KnownCost(total.amount + found.amount, found.currency or total.currency)
    return total


def apps_of(entry: CatalogEntry) -> frozenset[str]:
    """Endpoints of a workflow's steps."""
    workflow = Workflow.from_json(entry.endpoint.options[OPTION])
    return frozenset(node.app for node in workflow.nodes.values())


def _of_step(
    entry: CatalogEntry | None, price: Price | None, node: Node, input: Mapping[str, Any]
) -> KnownCost:
    if entry is None:
        return KnownCost(unknown=f"there is no endpoint {node.app}")
    if price is None:
        return cost_of(entry, None, {})
    if unknown := _unknown_of(node):
        return KnownCost(unknown=unknown)
    if price.unit is PriceUnit.REQUEST:
        return KnownCost(price.amount, price.currency)
    given, later = _inputs(entry, node, input)
    if price.unit is PriceUnit.IMAGE and not NUMBERS & later:
        if given.get(SEEDS) is not None and COUNT not in node.input:
            given.pop(COUNT, None)  # the default; the step makes an image of each seed
        return cost_of(entry, price, given)
    return KnownCost(
        unknown=f"{node.app} costs by the {price.unit.replace('_', ' ')}, which is known when it "
        "runs"
    )


def _unknown_of(node: Node) -> str:
    """Why a step's cost is not known whatever its price, as a clause; empty: it may be."""
    if node.for_each is not None:
        return "it runs for each element of a list"
    return "it makes drafts, or goes on from one" if {DRAFT, FROM_DRAFT} & node.input.keys() else ""


def _inputs(
    entry: CatalogEntry, node: Node, input: Mapping[str, Any]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Fields of a step's input that are known before it runs, and names of the others."""

    def known(source: str) -> Any:
        if source == INPUT:
            return input
        raise NotThere(source)

    properties: Mapping[str, Any] = entry.schema.json_schema().get("properties") or {}
    given = {name: each["default"] for name, each in properties.items() if "default" in each}
    later: set[str] = set()
    for name, value in node.input.items():
        try:
            given[name] = resolve(value, known)
        except NotThere:
            given.pop(name, None)
            later.add(name)
    return given, frozenset(later)
