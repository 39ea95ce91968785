-- compatible since 1
-- Which ingress replica does what one of them must do (serve_app/postgres/leader_election.py).

CREATE TABLE leaders (
    name   text PRIMARY KEY,
    holder text NOT NULL,                    -- id of the ingress replica
    until  timestamptz NOT NULL              -- from then on another one may take it
) WITH (fillfactor = 50);
