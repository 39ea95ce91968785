-- compatible since 1
-- Steps of a workflow whose client limits its cost, or disables fallbacks, run at their own endpoints. The version
-- before lets them fall back, also of requests that this version has stored.

ALTER TABLE requests ADD COLUMN steps_stay boolean NOT NULL DEFAULT false;  -- its steps have no fallback
