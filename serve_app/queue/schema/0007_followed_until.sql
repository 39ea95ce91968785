-- compatible since 1
-- Until when a client follows a running request. Reports about the others come less often.

ALTER TABLE progress ADD COLUMN followed_until timestamptz;
