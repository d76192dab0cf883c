-- What people say of events, what is learned from it, and the versions of the model.

-- The verdict that holds, beside the event; every one that was ever given is in the table verdicts.
ALTER TABLE events ADD COLUMN verdict TEXT;
ALTER TABLE events ADD COLUMN verdict_cause TEXT;
ALTER TABLE events ADD COLUMN verdict_class TEXT;
ALTER TABLE events ADD COLUMN verdict_note TEXT;
ALTER TABLE events ADD COLUMN verdict_by TEXT;
ALTER TABLE events ADD COLUMN verdict_us BIGINT;
-- The verdict changed, and the sample made of the recording has not followed yet.
ALTER TABLE events ADD COLUMN sample_due BOOLEAN NOT NULL DEFAULT false;
CREATE INDEX events_verdict ON events (verdict, listed_us, id) WHERE verdict IS NOT NULL;
CREATE INDEX events_sample_due ON events (id) WHERE sample_due;

CREATE TABLE verdicts (
    id              BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    event_id        BLOB NOT NULL,
    -- confirmed, rejected, relabelled, withdrawn.
    verdict         TEXT NOT NULL,
    cause           TEXT,
    class           TEXT,
    note            TEXT,
    given_by        TEXT NOT NULL,
    given_us        BIGINT NOT NULL
);
CREATE INDEX verdicts_event ON verdicts (event_id, given_us, id);
CREATE INDEX verdicts_given ON verdicts (given_us);

ALTER TABLE samples ADD COLUMN site_id TEXT;
ALTER TABLE samples ADD COLUMN device_id BLOB;
ALTER TABLE samples ADD COLUMN licence TEXT NOT NULL DEFAULT 'own recording';
-- Who said what is heard in it.
ALTER TABLE samples ADD COLUMN verifier TEXT;
CREATE INDEX samples_event ON samples (event_id) WHERE event_id IS NOT NULL;

-- Recordings that candidates are judged on: chosen once, never trained on.
CREATE TABLE test_groups (
    group_key       TEXT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    -- The class that it was chosen for.
    class           TEXT NOT NULL,
    chosen_us       BIGINT NOT NULL
);

-- Shots that somebody heard and no station told of.
CREATE TABLE missed_shots (
    id              BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT,
    heard_us        BIGINT NOT NULL,
    latitude        DOUBLE PRECISION,
    longitude       DOUBLE PRECISION,
    note            TEXT,
    reported_by     TEXT NOT NULL,
    reported_us     BIGINT NOT NULL
);
CREATE INDEX missed_shots_reported ON missed_shots (reported_us, id);

-- The sound of that minute, asked of a station. Its recording has the same id.
CREATE TABLE missed_shot_pulls (
    id              BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    shot_id         BLOB NOT NULL,
    site_id         TEXT NOT NULL,
    device_id       BLOB NOT NULL,
    from_us         BIGINT NOT NULL,
    until_us        BIGINT NOT NULL,
    -- Whether a person hears the shot in it; NULL until somebody listened.
    heard           BOOLEAN,
    class           TEXT,
    sample_id       BLOB,
    judged_by       TEXT,
    judged_us       BIGINT
);
CREATE INDEX missed_shot_pulls_shot ON missed_shot_pulls (shot_id, device_id);

-- Every bundle that this server ran, trained or was given. A row is never changed and its directory
-- never written again.
CREATE TABLE model_versions (
    id              BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    -- Of manifest.json, which holds the hashes of all other files.
    sha256          TEXT NOT NULL,
    tag             TEXT NOT NULL,
    name            TEXT NOT NULL,
    version         TEXT NOT NULL,
    -- builtin, configured, trained, imported.
    origin          TEXT NOT NULL,
    -- SHA-256 of the bundle that it was trained to replace.
    parent_sha256   TEXT,
    job_id          BLOB,
    -- Over path, class and group of every sample that it was trained on.
    data_sha256     TEXT,
    samples         BIGINT,
    seed            BIGINT,
    code_version    TEXT NOT NULL,
    -- JSON: what the gate measured and decided.
    gate            TEXT,
    created_us      BIGINT NOT NULL,
    created_by      TEXT NOT NULL
);
CREATE UNIQUE INDEX model_versions_sha256 ON model_versions (sha256);
CREATE INDEX model_versions_listed ON model_versions (created_us, id);

-- Which version serves: that of the highest number. Only ever added to.
CREATE TABLE model_activations (
    number          BIGINT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    version_id      BLOB NOT NULL,
    -- The version that served before.
    before_id       BLOB,
    -- start, gate, person, rollback.
    cause           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    done_by         TEXT NOT NULL,
    done_us         BIGINT NOT NULL
);
