-- compatible since 18
-- What a replica loads, and how many bytes of it are there: the stage and the share of a cold start.
ALTER TABLE replicas ADD COLUMN loading json NOT NULL DEFAULT '[]';

-- The last migration of the oldest version that goes on working with the tables as this one leaves them.
ALTER TABLE migrations ADD COLUMN compatible_since integer;
