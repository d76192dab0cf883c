-- Lists of one class or one site, and what came last, in as many steps as rows.
CREATE INDEX events_class ON events (class, listed_us, id);
CREATE INDEX events_site ON events (site_id, listed_us, id);
CREATE INDEX events_state ON events (state, listed_us, id) WHERE state <> 'open';
CREATE INDEX events_received ON events (received_us);
-- Recordings whose event was forgotten and whose file is to be removed.
CREATE INDEX clips_forgotten ON clips (id) WHERE status = 'forgotten';

-- Events lie in one table for each month of their ids, which are UUIDv7: the first 48 bits are
-- milliseconds since 1970. The table of before becomes the one for ids that no month takes, and the
-- program moves its rows to the tables of their months, which it also makes ahead.
ALTER TABLE events RENAME TO events_other;
ALTER INDEX events_pkey RENAME TO events_other_pkey;
DO $$
DECLARE name TEXT;
BEGIN
    FOR name IN
        SELECT indexname FROM pg_indexes
        WHERE schemaname = current_schema() AND tablename = 'events_other' AND indexname <> 'events_other_pkey'
    LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', name, replace(name, 'events_', 'events_other_'));
    END LOOP;
END
$$;
CREATE TABLE events (LIKE events_other INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE INDEX events_listed ON events (listed_us, id);
CREATE INDEX events_alerts ON events (alert, listed_us, id);
CREATE INDEX events_device ON events (device_id, listed_us, id);
CREATE INDEX events_unnamed ON events (model_tag) WHERE class IS NULL;
CREATE INDEX events_verdict ON events (verdict, listed_us, id) WHERE verdict IS NOT NULL;
CREATE INDEX events_sample_due ON events (id) WHERE sample_due;
CREATE INDEX events_class ON events (class, listed_us, id);
CREATE INDEX events_site ON events (site_id, listed_us, id);
CREATE INDEX events_state ON events (state, listed_us, id) WHERE state <> 'open';
CREATE INDEX events_received ON events (received_us);
ALTER TABLE events ATTACH PARTITION events_other DEFAULT;
