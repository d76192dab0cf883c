-- States that few events are in.
CREATE INDEX events_state ON events (state, listed_us, id) WHERE state <> 'open';
-- Recordings whose event was forgotten and whose file is to be removed.
CREATE INDEX clips_forgotten ON clips (id) WHERE status = 'forgotten';
