"""Replicas that send their weights to other nodes, in the database that all ingresses share."""

from __future__ import annotations

from serve_app.domain.lease import WeightOffer
from serve_app.postgres.database import Database
from serve_app.postgres.installation import shared_secret

MAX_AGE_S = 150
"""Offers are renewed every minute."""

MOST_PEERS = 8
"""Peers in an answer: more would be asked in vain while all nodes fetch the same weights."""

FORGET = """
-- name: forget_weight_peers
DELETE FROM weight_peers
WHERE replica_id = %(replica)s OR seen_at < now() - interval '1 hour'
"""
OFFER = """
-- name: offer_weights
INSERT INTO weight_peers AS p (replica_id, node_id, url, weights)
VALUES (%(replica)s, %(node)s, %(url)s, %(weights)s::text[])
ON CONFLICT (replica_id) DO UPDATE SET
    node_id = excluded.node_id, url = excluded.url, weights = excluded.weights, seen_at = now()
"""
# One replica of a node is enough: they share the directory. In random order, so that nodes that
# start together do not all ask the same one.
FIND = """
-- name: find_weight_peers
SELECT url FROM (
    SELECT DISTINCT ON (node_id) url FROM weight_peers
    WHERE %(name)s::text = ANY(weights) AND node_id <> %(node)s
      AND seen_at > now() - make_interval(secs => %(within_s)s)
    ORDER BY node_id, random()
) AS found
ORDER BY random() LIMIT %(most)s
"""


class PostgresWeightPeers:
    """Implements ``PeerDirectory``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def offer_weights(self, offer: WeightOffer) -> bytes:
        if offer.url:
            values = {
                "replica": offer.replica_id,
                "node": offer.node_id,
                "url": offer.url,
                "weights": list(offer.weights),
            }
            await self._database.rows(OFFER, values)
        else:
            await self._database.rows(FORGET, {"replica": offer.replica_id})
        return await shared_secret(self._database, "weight_peers")

    async def weight_peers(self, node_id: str, name: str) -> tuple[str, ...]:
        values = {"node": node_id, "name": name, "within_s": MAX_AGE_S, "most": MOST_PEERS}
        return tuple(url for (url,) in await self._database.rows(FIND, values))
