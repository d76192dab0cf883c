-- Sounds to learn from, long work, and counts that outlive a restart.

CREATE TABLE counters (
    name            TEXT NOT NULL PRIMARY KEY,
    value           BIGINT NOT NULL
);

CREATE TABLE samples (
    id              UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    class           TEXT NOT NULL,
    -- What must stay on one side of every split: slices of one recording share it.
    group_key       TEXT NOT NULL,
    -- upload, or event for a station's recording with a verdict.
    source          TEXT NOT NULL,
    event_id        UUID,
    -- As the sender called it: shown, never a path.
    file_name       TEXT NOT NULL,
    sha256          TEXT NOT NULL,
    bytes           BIGINT NOT NULL,
    duration_ms     BIGINT NOT NULL,
    rate_hz         BIGINT NOT NULL,
    channels        BIGINT NOT NULL,
    created_us      BIGINT NOT NULL,
    labelled_us     BIGINT NOT NULL
);
CREATE UNIQUE INDEX samples_content ON samples (sha256);
CREATE INDEX samples_listed ON samples (created_us, id);

-- Work that outlives a request. A worker holds a lease; when it is not renewed, another worker takes
-- the job, and whatever the first one still says is ignored: its attempt is over.
CREATE TABLE jobs (
    id              UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    kind            TEXT NOT NULL,
    -- JSON.
    payload         TEXT NOT NULL,
    -- queued, running, succeeded, failed.
    state           TEXT NOT NULL,
    -- At most one unfinished job has it.
    unique_key      TEXT,
    created_us      BIGINT NOT NULL,
    run_at_us       BIGINT NOT NULL,
    started_us      BIGINT,
    finished_us     BIGINT,
    attempts        BIGINT NOT NULL,
    max_attempts    BIGINT NOT NULL,
    lease_owner     TEXT,
    lease_until_us  BIGINT,
    -- What the worker does at the moment.
    progress        TEXT,
    -- JSON of what came out.
    result          TEXT,
    error           TEXT
);
CREATE UNIQUE INDEX jobs_unique ON jobs (unique_key) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_due ON jobs (run_at_us, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_listed ON jobs (kind, created_us, id);
