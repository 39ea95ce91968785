-- compatible since 1
-- Jobs of hosted providers whose request was cancelled, or too late, between two attempts: no replica knows of it, so an
-- ingress ends them. The version before leaves them to run, as it did.

ALTER TABLE hosted_calls ADD COLUMN unwanted_at timestamptz; -- time of the next try to end the job

CREATE FUNCTION end_unwanted_hosted_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE hosted_calls SET unwanted_at = clock_timestamp() WHERE request_id = NEW.id AND state = 'accepted';
    RETURN NULL;
END
$$;
-- One that runs has a replica, which ends the job itself.
CREATE TRIGGER end_unwanted_hosted_jobs AFTER UPDATE OF state ON requests
    FOR EACH ROW WHEN (OLD.state = 'queued' AND OLD.attempt > 0 AND NEW.state IN ('cancelled', 'expired'))
    EXECUTE FUNCTION end_unwanted_hosted_jobs();
