-- compatible since 1
-- Bytes that the drafts of an unfinished request are expected to take, which count towards the limit of its tenant. The
-- version before expects none.

ALTER TABLE requests ADD COLUMN draft_bytes bigint;  -- null: it makes no drafts
