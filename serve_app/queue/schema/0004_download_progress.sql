-- While weights are downloaded, the steps of a request's progress are bytes: more than 2^31 of them.

ALTER TABLE progress
    ALTER COLUMN step TYPE bigint,
    ALTER COLUMN steps TYPE bigint;
