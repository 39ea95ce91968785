-- compatible since 1
-- Jobs of hosted providers that no replica goes on with are ended by an ingress: also those of requests that fell back
-- to another endpoint, and of attempts that ended without their replica. The version before leaves them to run, as it
-- did, and forgets those whose call has no answer yet.

CREATE OR REPLACE FUNCTION end_unwanted_hosted_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A replica that has ended the attempt itself has also ended the job, unless the request falls back.
    IF OLD.state = 'running' AND NEW.fell_back_to IS NOT DISTINCT FROM OLD.fell_back_to AND EXISTS (
        SELECT FROM attempts a WHERE a.request_id = NEW.id AND a.attempt = NEW.attempt
          AND a.ended IN ('failed', 'cancelled', 'expired')
    ) THEN
        RETURN NULL;
    END IF;
    -- An answer may still come: then the job is known.
    UPDATE hosted_calls SET unwanted_at = clock_timestamp(), changed_at = clock_timestamp()
    WHERE request_id = NEW.id AND state IN ('sending', 'accepted');
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER end_unwanted_hosted_jobs AFTER UPDATE OF state, fell_back_to ON requests
    FOR EACH ROW WHEN (OLD.state IN ('queued', 'running') AND OLD.attempt > 0 AND (
        NEW.state IN ('cancelled', 'expired', 'failed')
        OR NEW.fell_back_to IS DISTINCT FROM OLD.fell_back_to))
    EXECUTE FUNCTION end_unwanted_hosted_jobs();

-- Most that a batch may cost. The version before, while it runs beside this one, may begin a batch that costs more.
ALTER TABLE batches ADD COLUMN max_cost text;  -- as in the header `X-Darkroom-Max-Cost`
