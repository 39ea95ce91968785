-- Requests that say themselves how often they may be tried again.

ALTER TABLE requests
    -- After timeouts, server errors, connection errors; null: by the installation's rule.
    ADD COLUMN retries_left smallint[];
