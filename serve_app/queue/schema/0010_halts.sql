-- Endpoints that an operator has halted. Usually there are none: every leasing looks in here.

CREATE TABLE halts (
    endpoint text PRIMARY KEY,
    kind     text NOT NULL CHECK (kind IN ('paused', 'draining')),
    at       timestamptz NOT NULL DEFAULT now(),
    actor    text NOT NULL                   -- the id of an API key
);

-- Attempts that an operator ended.
ALTER TABLE attempts DROP CONSTRAINT attempts_ended_check;
ALTER TABLE attempts ADD CONSTRAINT attempts_ended_check CHECK (
    ended IN (
        'succeeded', 'failed', 'cancelled', 'expired', 'retry', 'lost', 'stopped', 'hand_back',
        'undo', 'by_hand'));
