-- compatible since 1
-- Memory as a replica last reported it: of its device, or on a CPU of its process and its machine. The version before
-- writes none, and replicas of that version report none for a CPU.

ALTER TABLE replicas
    ADD COLUMN memory_used bigint,  -- bytes; null: not known
    ADD COLUMN memory_total bigint;
