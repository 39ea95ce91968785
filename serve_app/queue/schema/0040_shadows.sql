-- compatible since 1
-- one statement, outside a transaction
-- Requests of which a copy goes to another endpoint. The statement that stores a request stores its row too. The copy
-- is a request of its own, of the tenant `:shadow`, whose idempotency key is the id of the original. The version before
-- stores no such rows; while both run, the triggers below keep those of this version in step.
--
-- waiting: not paid for; sending: within its budget, and its copy may be stored; sent: its copy is stored; skipped: it
-- gets none, for `reason`. unwanted_at: its original was deleted, or its prompt was, so the copy is deleted too.

CREATE TABLE IF NOT EXISTS shadows (
    original    uuid PRIMARY KEY,
    tenant      text NOT NULL,
    endpoint    text NOT NULL,
    target      text NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sending', 'sent', 'skipped')),
    copy        uuid,
    reason      text NOT NULL DEFAULT '',
    unwanted_at timestamptz
) WITH (fillfactor = 80);

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS shadows_open ON shadows (target, original)
WHERE state IN ('waiting', 'sending') AND unwanted_at IS NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS shadows_unwanted ON shadows (unwanted_at) WHERE unwanted_at IS NOT NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS shadows_skipped ON shadows (original) WHERE state = 'skipped';

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS shadows_of_endpoint ON shadows (endpoint, original);

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS shadows_of_tenant ON shadows (tenant, original);

-- another statement, outside a transaction
-- What is deleted of an original is deleted of its copy.

CREATE OR REPLACE FUNCTION forget_shadow() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shadows SET unwanted_at = now() WHERE original = OLD.id AND unwanted_at IS NULL;
    RETURN NULL;
END
$$;

-- another statement, outside a transaction

CREATE OR REPLACE TRIGGER forget_shadow_of_deleted AFTER DELETE ON requests
FOR EACH ROW EXECUTE FUNCTION forget_shadow();

-- another statement, outside a transaction

CREATE OR REPLACE TRIGGER forget_shadow_of_emptied AFTER UPDATE OF deleted_at ON requests
FOR EACH ROW WHEN (NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION forget_shadow();

-- another statement, outside a transaction

CREATE OR REPLACE TRIGGER forget_shadow_of_redacted AFTER UPDATE OF forgetting ON requests
FOR EACH ROW WHEN (NEW.forgetting IS NOT NULL AND OLD.forgetting IS NULL) EXECUTE FUNCTION forget_shadow();
