-- compatible since 1
-- Endpoints whose weights a replica holds on its device (hot) and in host memory (warm), as its last
-- poll said. The version before leaves them as they are.

ALTER TABLE replicas
    ADD COLUMN hot json NOT NULL DEFAULT '[]',
    ADD COLUMN warm json NOT NULL DEFAULT '[]';
