"""Other endpoints of a new request: the fallback, if it can run this request, and the shadow, if
it is one of those that are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.fallbacks import input_at, unfit_field
from serve_app.catalog.known_cost import cost_of
from serve_app.catalog.source import FallbackSource
from serve_app.catalog.work import check_request, expected_quantities
from serve_app.domain.billing.price import Price
from serve_app.domain.errors import InvalidInput, Unavailable, UploadPolicyFailed
from serve_app.domain.executors.fallback import Fallback, FallbackBudget
from serve_app.domain.executors.shadow import SHADOW_TENANT, is_chosen
from serve_app.domain.media.draft import DRAFT, FROM_DRAFT
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.domain.request import NewRequest, Priority
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.max_cost import refusal_of
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.registered import START
from serve_app.settings import NO_LIMITS


class CannotRunThere(Exception):
    """Why a request cannot run at another endpoint, as a clause.

    It is no error of the client: the request runs, with one chance less.
    """


def planned_fallback(
    services: Services,
    tenant: str,
    entry: CatalogEntry,
    input: Mapping[str, Any],
    options: SubmitOptions,
) -> tuple[Fallback | None, tuple[str, ...]]:
    """Where a request with this validated input may run instead; and a warning, if its endpoint has
    a fallback that cannot run it. Private endpoints have none: it has not their weights."""
    source = entry.source.fallback
    if source is None or entry.base or options.no_fallback:
        return None, ()
    try:
        return _plan(services, tenant, entry, input, options, source), ()
    except CannotRunThere as error:
        return None, (f"The request cannot fall back to {source.endpoint}: {error}.",)


def _plan(
    services: Services,
    tenant: str,
    entry: CatalogEntry,
    input: Mapping[str, Any],
    options: SubmitOptions,
    source: FallbackSource,
) -> Fallback:
    other = services.catalog.find(source.endpoint)
    if other is None or other.missing:
        raise CannotRunThere("it is not served here")
    given = input_there(services, tenant, entry, other, input, source.fields)
    own_pool, pool = services.pool_of(entry), pool_there(services, other, given)
    price, own_price = services.price_of(other), services.price_of(entry)
    if price and own_price and price.currency != own_price.currency:
        raise CannotRunThere(f"its price is in {price.currency}, not in {own_price.currency}")
    if options.max_cost is not None:
        refusal = refusal_of(cost_of(other, price, given), options.max_cost)
        if refusal:
            raise CannotRunThere(f"it may cost {options.max_cost}, and there {refusal}")
    if options.upload_policy is not None:
        _check_bucket(other, given, options.upload_policy)
    budget = None if source.budget is None else FallbackBudget.parse(source.budget)
    # What has low priority waits, and a move within a pool would not start it earlier.
    waits = pool == own_pool or options.priority is Priority.LOW
    return Fallback(
        endpoint=source.endpoint,
        pool=pool,
        errors=source.errors,
        max_wait_s=None if waits else source.max_wait_s,
        price=price,
        cost=Decimal(0) if budget is None else cost_there(other, price, given, budget),
        budget=budget,
        fields=source.fields,
        same_pool=pool == own_pool,
        expected=expected_quantities(given),
    )


def input_there(
    services: Services,
    tenant: str,
    entry: CatalogEntry,
    other: CatalogEntry,
    input: Mapping[str, Any],
    fields: Mapping[str, str | None],
) -> Mapping[str, Any]:
    """Input of a request of ``tenant`` for another endpoint. ``CannotRunThere``."""
    if DRAFT in input or FROM_DRAFT in input:
        raise CannotRunThere("drafts belong to one endpoint")
    if any(_is_registered(each) for each in input.get("loras") or ()):
        raise CannotRunThere("it names registered weights, which are this installation's")
    if unfit := unfit_field(entry, other, fields, input):
        raise CannotRunThere(f"that endpoint has no field `{unfit}`")
    try:
        given = input_at(other, fields, input)
        services.safety.check(tenant, other.endpoint.id, given)
    except InvalidInput as error:
        raise CannotRunThere(error.message.rstrip(".")) from None
    return given


def _is_registered(lora: object) -> bool:
    """Return whether a LoRA is read from this installation, which other services cannot."""
    return isinstance(lora, Mapping) and str(lora.get("path", "")).startswith(START)


def with_shadow(
    services: Services,
    entry: CatalogEntry,
    new: NewRequest,
    options: SubmitOptions,
    *,
    reads_private: bool,
) -> NewRequest:
    """``new``, with the endpoint that gets a copy of it, if it is one of the share that is copied.
    ``reads_private``: its input names a private file, which a copy cannot read.

    Never copied is what its client does not want elsewhere, or not kept, and what only one request
    can read.
    """
    source = entry.source.shadow
    if source is None or entry.base or options.no_shadow or options.no_fallback:
        return new
    kept = new.store_io and new.keep_files_s is None and new.upload_policy is None
    usual = services.files.access.of_new(SHADOW_TENANT, None, outputs=True)
    as_open = new.file_access is None or usual is not None  # its files have no more readers
    own = DRAFT in new.input or FROM_DRAFT in new.input or reads_private
    # The files of a copy are in the storage of the installation.
    limits = services.config.queue.tenant_limits.get(new.tenant, NO_LIMITS)
    own = own or limits.storage is not None
    if not kept or not as_open or own or new.tenant in source.except_tenants:
        return new
    chosen = is_chosen(new.id, new.endpoint, source.share)
    return replace(new, shadow=source.endpoint) if chosen else new


# Parts of a plan. Each says why a request stays, for its log.


def pool_there(services: Services, other: CatalogEntry, given: Mapping[str, Any]) -> str:
    try:
        pool = services.pool_of(other)
        check_request(other.endpoint, given, services.pools.device_bytes(pool))
    except (InvalidInput, Unavailable) as error:
        raise CannotRunThere(error.message.rstrip(".")) from None
    return pool


def _check_bucket(other: CatalogEntry, given: Mapping[str, Any], policy: UploadPolicy) -> None:
    """Raise if the client's bucket does not take the files that the other endpoint makes."""
    for media_type in other.schema.media_types(given):
        try:
            policy.form("", media_type)
        except UploadPolicyFailed as error:
            raise CannotRunThere(error.message.rstrip(".")) from None


def cost_there(
    other: CatalogEntry, price: Price | None, given: Mapping[str, Any], budget: FallbackBudget
) -> Decimal:
    """What the budget counts.

    It can be kept only where the cost is known before, in its own currency.
    """
    if price is None:
        raise CannotRunThere(f"the budget of {budget} needs a price of that endpoint")
    known = cost_of(other, price, given)
    if known.unknown:
        raise CannotRunThere(f"the budget of {budget} needs to know the cost: {known.unknown}")
    if price.currency != budget.currency:
        raise CannotRunThere(f"the budget is in {budget.currency}, its price in {price.currency}")
    return known.amount
