-- Lists of one class or one site, and what came last, in as many steps as rows.
CREATE INDEX events_class ON events (class, listed_us, id);
CREATE INDEX events_site ON events (site_id, listed_us, id);
CREATE INDEX events_state ON events (state, listed_us, id) WHERE state <> 'open';
CREATE INDEX events_received ON events (received_us);
-- Recordings whose event was forgotten and whose file is to be removed.
CREATE INDEX clips_forgotten ON clips (id) WHERE status = 'forgotten';
