"""The price of a submit, the most that its client lets it cost, and what a workflow needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.known_cost import (
    KnownCost,
    apps_of,
    cost_of,
    cost_of_workflow,
    costs_of_steps,
)
from serve_app.domain.billing.price import Price
from serve_app.domain.workflows.definition import FAMILY
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.submission.admission import Submission
from serve_app.ingress.submission.max_cost import header_error, refusal_of
from serve_app.settings import NO_LIMITS


async def check_cost(submission: Submission) -> None:
    """Set the price. ``InvalidInput``: it would cost more than it may, or that is not known."""
    submission.price = submission.services.price_of(submission.entry)
    most = submission.options.max_cost
    if most is not None and (refusal := refusal_of(await known_cost(submission), most)):
        raise header_error(f"allows {most}, and {refusal}. It was not queued")
    limits = submission.services.config.queue.tenant_limits.get(submission.tenant, NO_LIMITS)
    if limits.budget is not None and submission.entry.endpoint.family == FAMILY:
        submission.needed = await in_cpu_thread(_step_reservations, submission)


async def known_cost(submission: Submission) -> KnownCost:
    """What a validated input costs, of a workflow with all its steps."""
    entry = submission.entry
    if entry.endpoint.family != FAMILY:
        price = submission.services.price_of(entry)
        return cost_of(entry, price, submission.input, submission.left)
    parts = _catalog_and_prices(submission)
    return await in_cpu_thread(cost_of_workflow, *parts, entry, submission.input)


def _step_reservations(submission: Submission) -> Mapping[str, Decimal]:
    """What the steps of a workflow will reserve, by currency, as far as it is known."""
    amounts = defaultdict[str, Decimal](Decimal)
    parts = _catalog_and_prices(submission)
    for _, cost in costs_of_steps(*parts, submission.entry, submission.input):
        if not cost.unknown:
            amounts[cost.currency] += cost.amount
    return amounts


def _catalog_and_prices(submission: Submission) -> tuple[Catalog, Mapping[str, Price | None]]:
    """What the tenant sees, and the prices of a workflow's steps by their endpoints."""
    services = submission.services
    catalog = services.catalog.of_tenant(submission.tenant)
    prices = {
        app: services.price_of(entry)
        for app in apps_of(submission.entry)
        if (entry := catalog.find(app)) is not None
    }
    return catalog, prices
