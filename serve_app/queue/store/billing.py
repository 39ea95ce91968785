"""SQL of what a usage line says about the price of its request.

Every statement that writes a line reads the request's own ``price``: what it costs was fixed when
it was submitted, whichever process ends it.
"""

from __future__ import annotations

from serve_app.domain.outcome import FRAMES
from serve_app.domain.request import Priority

BILL_COLUMNS = "key_id, price, billed, amount, reserved, submitted_at"

QUANTITY = """CASE price ->> 'unit'
                WHEN 'image' THEN images * share
                WHEN 'megapixel' THEN megapixels * share
                WHEN 'second' THEN seconds
                WHEN 'gpu_second' THEN run_s::numeric
                ELSE 1 END"""
"""Units of a request that was computed and succeeded; the row has what it made."""


PER_ATTEMPT = f"""CASE WHEN price ->> 'unit' = 'request' AND priority = {int(Priority.REALTIME)}
                     AND final::json #> '{{output,{FRAMES}}}' IS NOT NULL THEN 0
                ELSE {QUANTITY} END"""
"""The same of an attempt that ended with the outcome ``final``. Frames of a realtime session are
requests with lines of their own, so the session is none beside them."""

# What a request costs that was submitted without a budget counts towards one that its tenant got
# since.
_RESERVED = "coalesce(reserved, CASE WHEN price IS NOT NULL THEN 0 END)"


def bill(quantity: str = "0") -> str:
    """Values of ``BILL_COLUMNS``. ``quantity``: SQL for the units to bill. By default none, as for
    requests that were not computed. The row has ``key_id``, ``price``, ``reserved`` and
    ``created_at`` of the request."""
    return f"""key_id, price,
           CASE WHEN price IS NOT NULL THEN {quantity} END,
           CASE WHEN price IS NOT NULL THEN
               ({quantity}) * (price ->> 'amount')::numeric END,
           {_RESERVED}, CASE WHEN {_RESERVED} IS NOT NULL THEN created_at END"""


LINES = """(
    SELECT at, tenant, key_id, endpoint, state, price, 1::bigint AS requests,
           run_s::numeric AS run_s, steps::numeric AS steps, units::numeric AS units,
           images::bigint AS images, megapixels::bigint AS megapixels, billed, amount
    FROM usage
    UNION ALL
    SELECT (day + time '12:00') AT TIME ZONE 'UTC', tenant, key_id, endpoint, state, price,
           requests, run_s, steps, units, images, megapixels, billed, amount
    FROM usage_days
)"""
"""Usage lines, and the sums of the days whose lines were rolled up, as if these had ended at noon
(UTC). All sums are decimal, so that they are the same before and after."""
