-- Who took an alert, and when.
ALTER TABLE events ADD COLUMN acknowledged_by TEXT;
ALTER TABLE events ADD COLUMN acknowledged_us BIGINT;
