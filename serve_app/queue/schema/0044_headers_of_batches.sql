-- compatible since 1
-- Headers of the call that created a batch, such as access rules of files: they hold for each of its lines. The version
-- before stores none, and while it runs beside this one, it may send lines without them.

ALTER TABLE batches ADD COLUMN headers json;  -- lower-case name → value; null: none
