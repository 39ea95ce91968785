-- compatible since 1
-- Presigned POST policy of the bucket that a request's files go to, with its signature; null at the
-- end of the request. The version before stores the files as it always did.

ALTER TABLE requests ADD COLUMN upload_policy text;
