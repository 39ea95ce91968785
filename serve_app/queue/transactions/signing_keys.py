"""Keys that sign webhooks, in the database: all ingress replicas sign with the same keys."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from serve_app.domain.audit.acts import Actor
from serve_app.domain.webhook import SigningSeed
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database, Lock

LOCK = 0x77686B  # "whk": lock of processes that create keys, one at a time

NOTICE_S = 90_000.0
"""Seconds between a key's creation and its first signature: an hour longer than receivers may cache
the old list of keys.
"""

READ = """
SELECT kid, seed, signs_from <= now(), extract(epoch FROM now() - signs_from)::double precision
FROM webhook_keys ORDER BY signs_from, kid
"""
MAKE_FIRST = """
INSERT INTO webhook_keys (kid, seed, signs_from)
SELECT %(kid)s, %(seed)s, now()
WHERE (SELECT 1 FROM webhook_keys LIMIT 1) IS NULL
"""
_AUDITED = f"""
noted AS ({insert_audit("kid", "made")})
SELECT kid FROM made
"""
# A key that was replaced more than the notice period ago is not needed for any check.
ANNOUNCE = f"""
WITH made AS (
    INSERT INTO webhook_keys (kid, seed, signs_from)
    SELECT %(kid)s, %(seed)s, now() + make_interval(secs => %(notice_s)s)
    WHERE (SELECT 1 FROM webhook_keys WHERE signs_from > now() LIMIT 1) IS NULL
    RETURNING kid
),
dropped AS (
    DELETE FROM webhook_keys k WHERE k.signs_from < (
        SELECT max(n.signs_from) FROM webhook_keys n
        WHERE n.signs_from < now() - make_interval(secs => %(notice_s)s))
),
{_AUDITED}
"""
REPLACE = f"""
WITH dropped AS (DELETE FROM webhook_keys),
made AS (
    INSERT INTO webhook_keys (kid, seed, signs_from) VALUES (%(kid)s, %(seed)s, now())
    RETURNING kid
),
{_AUDITED}
"""


class PostgresSigningSeeds:
    """Implements ``SigningSeeds``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Sequence[SigningSeed]:
        seeds = await self._read()
        if not any(seed.signs for seed in seeds):
            await self._database.rows(MAKE_FIRST, _fresh(), lock=Lock((LOCK,)))
            seeds = await self._read()
        return seeds

    async def rotate(self, actor: Actor, *, at_once: bool) -> None:
        noted = audit_params(actor, "webhook.rotate", at_once=at_once)
        if at_once:
            await self._database.rows(REPLACE, {**_fresh(), **noted}, lock=Lock((LOCK,)))
            return
        params = {**_fresh(), **noted, "notice_s": NOTICE_S}
        await self._database.rows(ANNOUNCE, params, lock=Lock((LOCK,)))

    async def _read(self) -> Sequence[SigningSeed]:
        rows = await self._database.rows(READ)
        return [
            SigningSeed(kid, bytes.fromhex(seed), signs, age_s) for kid, seed, signs, age_s in rows
        ]


def _fresh() -> dict[str, str]:
    return {"kid": f"whk_{secrets.token_hex(8)}", "seed": secrets.token_hex(32)}
