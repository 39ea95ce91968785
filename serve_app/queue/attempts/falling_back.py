"""What changes in the row of a request that falls back: in every statement that does it."""

from __future__ import annotations


def fall_back(falls: str, reason: str) -> str:
    """Assignments for a request ``r`` that falls back if the expression ``falls`` is true.

    The price, the pool and the expected time are those of the other endpoint. Its outcome is not
    shared with requests for its own endpoint that come later.
    """
    return f"""pool = CASE WHEN {falls} THEN r.fallback ->> 'pool' ELSE r.pool END,
        fell_back_to = CASE WHEN {falls} THEN r.fallback ->> 'endpoint' ELSE r.fell_back_to END,
        fell_back_for = CASE WHEN {falls} THEN {reason} ELSE r.fell_back_for END,
        price = CASE WHEN {falls} THEN (r.fallback -> 'price')::jsonb ELSE r.price END,
        expected_s = CASE WHEN {falls} THEN (r.fallback ->> 'expected_s')::double precision
            ELSE r.expected_s END,
        reuse_digest = CASE WHEN NOT ({falls}) THEN r.reuse_digest END"""
