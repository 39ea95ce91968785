-- compatible since 1
-- Address of the client whose act it is; empty for acts before this migration, and where no client
-- acts.

ALTER TABLE audit ADD COLUMN address text NOT NULL DEFAULT '';
