"""What a request will cost, where that is known before it runs, and why it is not elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, cast

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.catalog.fields.fields import COUNT, SEEDS
from serve_app.catalog.fields.pydantic_schema import PydanticSchema
from serve_app.catalog.work import expected_quantities, length_of, requested_work
from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.media.draft import DRAFT, FROM_DRAFT
from serve_app.domain.media.image_size import AUTO
from serve_app.domain.workflows.definition import MAX_ITEMS, OPTION, Node, Workflow, holds
from serve_app.domain.workflows.references import (
    INDEX,
    INPUT,
    ITEM,
    NotThere,
    references_in,
    resolve,
)

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
    quantities = expected_quantities(entry.endpoint, input, left)
    return KnownCost(quantities.cost(price), price.currency)


def _unknown(entry: CatalogEntry, price: Price | None, input: Mapping[str, Any]) -> str:
    endpoint = entry.endpoint
    if price is None:
        if endpoint.executor.is_hosted:
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
    """Sum of a workflow's steps. ``prices``: by endpoint."""
    total = KnownCost()
    for name, cost in costs_of_steps(catalog, prices, entry, input):
        if cost.unknown:
            return KnownCost(unknown=f"its step `{name}`: {cost.unknown}")
        if total.currency and cost.currency and total.currency != cost.currency:
            both = f"{total.currency} and {cost.currency}"
            return KnownCost(unknown=f"its steps have prices in {both}")
        total = KnownCost(total.amount + cost.amount, cost.currency or total.currency)
    return total


def costs_of_steps(
    catalog: Catalog,
    prices: Mapping[str, Price | None],
    entry: CatalogEntry,
    input: Mapping[str, Any],
) -> Iterator[tuple[str, KnownCost]]:
    """Cost of each step of a workflow, as if it runs unless the input says that it does not."""
    workflow = Workflow.from_json(entry.endpoint.options[OPTION])
    for name, node in workflow.nodes.items():
        callee = catalog.find(node.app)
        if callee is None:
            yield name, KnownCost(unknown=f"there is no endpoint {node.app}")
        elif not _is_skipped(node, input):
            yield name, _of_step(callee, prices.get(node.app), node, input)


def apps_of(entry: CatalogEntry) -> frozenset[str]:
    """Endpoints of a workflow's steps."""
    workflow = Workflow.from_json(entry.endpoint.options[OPTION])
    return frozenset(node.app for node in workflow.nodes.values())


def _of_step(
    entry: CatalogEntry, price: Price | None, node: Node, input: Mapping[str, Any]
) -> KnownCost:
    if price is None:
        return cost_of(entry, None, {})
    if {DRAFT, FROM_DRAFT} & node.input.keys():
        return KnownCost(unknown="it makes drafts, or goes on from one")
    if node.for_each is None:
        elements: Sequence[Any] = [None]
    elif not _is_known(node.for_each):
        return KnownCost(unknown="it runs for each element of a list that another step makes")
    else:
        # With a list that is none, or too long, the step does not start.
        listed = _known_value(node.for_each, input)
        elements = cast("list[Any]", listed) if isinstance(listed, list) else []
        elements = elements if len(elements) <= MAX_ITEMS else []
    if price.unit is PriceUnit.REQUEST:
        return KnownCost(len(elements) * price.amount, price.currency)
    amount, properties = Decimal(0), entry.schema.json_schema().get("properties") or {}
    known = {name: value for name, value in node.input.items() if _is_known(value)}
    later = node.input.keys() - known.keys()
    defaults = {
        name: field["default"]
        for name, field in properties.items()
        if "default" in field and name not in later
    }
    for number, element in enumerate(elements):
        sources = {INPUT: input, ITEM: element, INDEX: number}
        values, missing = _inputs(defaults, known, sources)
        cost = _of_call(entry, price, node, values, missing | later)
        if cost.unknown:
            return cost
        amount += cost.amount
    return KnownCost(amount, price.currency)


def _of_call(
    entry: CatalogEntry, price: Price, node: Node, fields: dict[str, Any], later: frozenset[str]
) -> KnownCost:
    """Cost of a step for one element. ``fields``: its input as far as it is known. ``later``: names
    of its other fields."""
    if price.unit is PriceUnit.IMAGE and not NUMBERS & later:
        if fields.get(SEEDS) is not None and COUNT not in node.input:
            fields.pop(COUNT, None)  # the default; the step makes an image of each seed
        return cost_of(entry, price, fields)
    return KnownCost(
        unknown=f"{node.app} costs by the {price.unit.replace('_', ' ')}, which is known when it "
        "runs"
    )


def _is_skipped(node: Node, input: Mapping[str, Any]) -> bool:
    """Return whether the input alone says that the step does not run."""
    if node.when is None or not _is_known(node.when):
        return False
    return not holds(node.when, partial(_source, {INPUT: input}))


def _is_known(value: Any) -> bool:
    """Return whether a value of a definition has no reference to another step."""
    own = (INPUT, ITEM, INDEX)
    return all(reference.source in own for _, reference in references_in(value, ()))


def _known_value(value: Any, input: Mapping[str, Any]) -> Any:
    try:
        return resolve(value, partial(_source, {INPUT: input}))
    except NotThere:
        return None


def _source(sources: Mapping[str, Any], name: str) -> Any:
    if name not in sources:
        raise NotThere(name)
    return sources[name]


def _inputs(
    defaults: Mapping[str, Any], known: Mapping[str, Any], sources: Mapping[str, Any]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Fields of a step's input, and names of those whose references stand for nothing. ``known``:
    fields as the definition has them. ``sources``: what their references stand for."""
    values, missing = dict(defaults), set[str]()
    for name, value in known.items():
        try:
            resolved = resolve(value, partial(_source, sources))
        except NotThere:
            values.pop(name, None)
            missing.add(name)
            continue
        if resolved is not None:  # a null leaves the field to its default
            values[name] = resolved
    return values, frozenset(missing)
