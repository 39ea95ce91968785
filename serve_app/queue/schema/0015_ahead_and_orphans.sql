-- What is behind requests that cannot be leased now is found without reading past them: those for
-- endpoints that are at their limit, and those of which a replica runs one at a time.
CREATE INDEX requests_of_endpoint ON requests (pool, tenant, endpoint, ranked_at, place)
    WHERE state = 'queued';
CREATE INDEX requests_suspect ON requests (pool, tenant, ranked_at, place)
    WHERE state = 'queued' AND alone AND failures > 0;

-- Whether what an attempt may have uploaded is unwanted, since it ended without it. Of those before
-- this, nobody knows what their files were called.
ALTER TABLE attempts ADD COLUMN collected boolean NOT NULL DEFAULT true;
ALTER TABLE attempts ALTER COLUMN collected SET DEFAULT false;
CREATE INDEX attempts_to_collect ON attempts (request_id)
    WHERE ended NOT IN ('succeeded', 'undo') AND NOT collected;
