-- compatible since 1
-- Leases with the same attempt number, after a failover that lost the last transactions or a
-- restored backup, differ by a random number. Leases of a version before it have 0.

ALTER TABLE requests ADD COLUMN lease_nonce bigint NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN nonce bigint NOT NULL DEFAULT 0;
