-- compatible since 18
-- What is told of an input that is too long to be told whole; null where the input is. Read instead
-- of it wherever not a replica reads: the input lies outside the row, and is not even looked for.
ALTER TABLE requests ADD COLUMN shown json;
