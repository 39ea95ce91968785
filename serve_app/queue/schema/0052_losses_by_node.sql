-- compatible since 1
-- Attempts that their replica did not bring to an end know its node, and nodes that lose attempts again and
-- again are quarantined. A request that may have ended its replica is tried on another node before it is blamed.

ALTER TABLE attempts ADD COLUMN node text;

CREATE TABLE quarantines (
    node text PRIMARY KEY,
    losses integer NOT NULL,
    last_loss_at timestamptz NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz
);

-- Nodes on which a replica died with the request, and that of `last_replica`.
CREATE FUNCTION died_on_nodes(of_request uuid, last_replica text DEFAULT NULL) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(node), '{}') FROM (
        SELECT node FROM attempts
        WHERE request_id = of_request AND node IS NOT NULL AND ended IN ('lost', 'died')
        UNION
        SELECT node FROM replicas WHERE replica_id = last_replica AND node <> '') x
$$;

CREATE FUNCTION has_ready_elsewhere(of_pool text, than text[]) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT cardinality(than) > 0 AND EXISTS (
        SELECT FROM replicas
        WHERE pool = of_pool AND stage = 'ready' AND seen_at > now() - interval '15 s'
          AND node <> '' AND node <> ALL (than))
$$;

-- True if one of the replicas is on a node on which none has died with the request, or there is no other.
CREATE FUNCTION may_run_suspect(of_request uuid, of_pool text, on_replicas text[]) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT has_ready_elsewhere(of_pool, than) OR EXISTS (
        SELECT FROM replicas WHERE replica_id = ANY (on_replicas) AND node <> ALL (than))
    FROM (SELECT died_on_nodes(of_request) AS than OFFSET 0) x
$$;

CREATE FUNCTION one_node_is_to_blame(of_request uuid, last_replica text, of_pool text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT cardinality(than) = 1 AND has_ready_elsewhere(of_pool, than)
    FROM (SELECT died_on_nodes(of_request, last_replica) AS than OFFSET 0) x
$$;
