-- compatible since 1
-- A replica's term begins with its actor and ends once: under an ended term it is leased nothing more.

CREATE TABLE ended_terms (
    actor_id text PRIMARY KEY,
    reason text NOT NULL,
    by_itself boolean NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE attempts DROP CONSTRAINT attempts_ended_check;
ALTER TABLE attempts ADD CONSTRAINT attempts_ended_check CHECK (ended IN (
    'succeeded', 'failed', 'cancelled', 'expired', 'retry', 'lost', 'interrupted', 'stopped',
    'hand_back', 'undo', 'by_hand'));
