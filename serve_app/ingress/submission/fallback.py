"""The endpoint that may run a request in place of its own, if it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.fallbacks import input_at, unfit_field
from serve_app.catalog.known_cost import cost_of
from serve_app.catalog.source import FallbackSource
from serve_app.catalog.work import expected_quantities
from serve_app.domain.billing.price import Price
from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, InvalidInput
from serve_app.domain.executors.fallback import Fallback, FallbackBudget
from serve_app.domain.media.draft import DRAFT, FROM_DRAFT
from serve_app.domain.request import Priority
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.admission import Step, Submission, admit
from serve_app.ingress.submission.client_bucket import check_bucket_types
from serve_app.ingress.submission.input import check_work, choose_pool
from serve_app.ingress.submission.max_cost import refusal_of
from serve_app.ingress.submission.named_secrets import require_secrets
from serve_app.ingress.submission.registered import is_registered
from serve_app.ingress.submission.safety import check_rules
from serve_app.ingress.submission.signing import require_signable

STEPS_THERE: Sequence[Step] = (
    choose_pool,
    require_secrets,
    check_work,
    require_signable,
    check_bucket_types,
)
"""Steps that a plan takes at the other endpoint. No other: the request was admitted at its own, and
what has words of its own there, or no place in a plan, follows in ``_plan`` and ``input_there``."""


class CannotRunThere(Exception):
    """Why a request cannot run at another endpoint, as a clause.

    It is no error of the client: the request runs, with one chance less.
    """


async def plan_fallback(submission: Submission) -> None:
    """Plan where the request may run instead, with a warning if its endpoint has a fallback that
    cannot run it. Private endpoints have none: it has not their weights."""
    source = submission.entry.source.fallback
    if source is None or submission.entry.base or submission.options.no_fallback:
        return
    try:
        submission.fallback = await _plan(submission, source)
    except CannotRunThere as error:
        warning = f"The request cannot fall back to {source.endpoint}: {error}."
        submission.warnings += (warning,)


async def _plan(submission: Submission, source: FallbackSource) -> Fallback:
    services, options = submission.services, submission.options
    other = services.catalog.find(source.endpoint)
    if other is None or other.missing:
        raise CannotRunThere("it is not served here")
    fields = input_there(
        services, submission.tenant, submission.entry, other, submission.input, source.fields
    )
    there = Submission(services, submission.tenant, other, None, options, input=fields)
    try:
        await admit(there, STEPS_THERE)
    except DatabaseUnavailable:
        raise
    except DarkroomError as error:
        raise CannotRunThere(error.message.rstrip(".")) from None
    own_pool, pool = submission.pool, there.pool
    price, own_price = services.price_of(other), submission.price
    if price and own_price and price.currency != own_price.currency:
        raise CannotRunThere(f"its price is in {price.currency}, not in {own_price.currency}")
    if options.max_cost is not None:
        refusal = refusal_of(cost_of(other, price, fields), options.max_cost)
        if refusal:
            raise CannotRunThere(f"it may cost {options.max_cost}, and there {refusal}")
    budget = None if source.budget is None else FallbackBudget.parse(source.budget)
    # What has low priority waits, and a move within a pool would not start it earlier.
    waits = pool == own_pool or options.priority is Priority.LOW
    return Fallback(
        endpoint=source.endpoint,
        pool=pool,
        errors=source.errors,
        max_wait_s=None if waits else source.max_wait_s,
        price=price,
        cost=Decimal(0) if budget is None else cost_there(other, price, fields, budget),
        budget=budget,
        fields=source.fields,
        same_pool=pool == own_pool,
        expected=expected_quantities(other.endpoint, fields),
    )


def input_there(
    services: Services,
    tenant: str,
    entry: CatalogEntry,
    other: CatalogEntry,
    input: Mapping[str, Any],
    fields: Mapping[str, str | None],
) -> dict[str, Any]:
    """Input of a request of ``tenant`` for another endpoint. ``CannotRunThere``."""
    if DRAFT in input or FROM_DRAFT in input:
        raise CannotRunThere("drafts belong to one endpoint")
    if any(is_registered(lora) for lora in input.get("loras") or ()):
        raise CannotRunThere("it names registered weights, which are this installation's")
    if unfit := unfit_field(entry, other, fields, input):
        raise CannotRunThere(f"that endpoint has no field `{unfit}`")
    try:
        other_input = input_at(other, fields, input)
        check_rules(Submission(services, tenant, other, None, input=other_input))
    except InvalidInput as error:
        raise CannotRunThere(error.message.rstrip(".")) from None
    return other_input


def cost_there(
    other: CatalogEntry, price: Price | None, fields: Mapping[str, Any], budget: FallbackBudget
) -> Decimal:
    """What the budget counts.

    It can be kept only where the cost is known before, in its own currency.
    """
    if price is None:
        raise CannotRunThere(f"the budget of {budget} needs a price of that endpoint")
    known = cost_of(other, price, fields)
    if known.unknown:
        raise CannotRunThere(f"the budget of {budget} needs to know the cost: {known.unknown}")
    if price.currency != budget.currency:
        raise CannotRunThere(f"the budget is in {budget.currency}, its price in {price.currency}")
    return known.amount
