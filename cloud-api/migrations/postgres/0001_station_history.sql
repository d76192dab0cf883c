-- Stations and what they sent. Times are microseconds since 1970 UTC.

CREATE TABLE devices (
    id              UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    name            TEXT NOT NULL,
    -- By the station's own word or its last will: online, offline; unknown before the first.
    state           TEXT NOT NULL,
    first_seen_us   BIGINT NOT NULL,
    last_seen_us    BIGINT NOT NULL,
    agent_version   TEXT,
    model_tag       TEXT,
    latitude        DOUBLE PRECISION,
    longitude       DOUBLE PRECISION,
    uncertainty_m   DOUBLE PRECISION
);

-- Bundles that stations named, so that a class index in an alert has a meaning.
CREATE TABLE models (
    tag             TEXT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    name            TEXT NOT NULL,
    version         TEXT NOT NULL,
    -- JSON array of class names in the order of the model's outputs.
    classes         TEXT NOT NULL
);

-- Every record ever stored: what makes a repeated delivery harmless.
CREATE TABLE records (
    device_id       UUID NOT NULL,
    boot            BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    kind            TEXT NOT NULL,
    unix_us         BIGINT NOT NULL,
    time_quality    TEXT NOT NULL,
    received_us     BIGINT NOT NULL,
    PRIMARY KEY (device_id, boot, seq)
);

CREATE TABLE events (
    id              UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    device_id       UUID NOT NULL,
    -- NULL while only the index is known and the model is not.
    class           TEXT,
    class_index     BIGINT,
    alert           BOOLEAN NOT NULL,
    canary          BOOLEAN NOT NULL,
    flags           BIGINT NOT NULL,
    -- Whether the detection, which ends an event, has come.
    complete        BOOLEAN NOT NULL,
    state           TEXT NOT NULL,
    score           DOUBLE PRECISION NOT NULL,
    onset_us        BIGINT NOT NULL,
    time_quality    TEXT NOT NULL,
    received_us     BIGINT NOT NULL,
    -- Where the event stands in lists: its onset if the clock can be believed, else its arrival.
    listed_us       BIGINT NOT NULL,
    duration_ms     BIGINT,
    decided_after_ms BIGINT,
    windows         BIGINT NOT NULL,
    level_dbfs      DOUBLE PRECISION NOT NULL,
    noise_floor_dbfs DOUBLE PRECISION,
    -- JSON array of the strongest window's scores in 1/255, in the model's class order.
    scores          TEXT,
    model_tag       TEXT NOT NULL
);
CREATE INDEX events_listed ON events (listed_us, id);
CREATE INDEX events_alerts ON events (alert, listed_us, id);
CREATE INDEX events_device ON events (device_id, listed_us, id);
CREATE INDEX events_unnamed ON events (model_tag) WHERE class IS NULL;

-- Alerts on their way to rangers; `sent_us` is set when the broker has taken them.
CREATE TABLE notifications (
    event_id        UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    created_us      BIGINT NOT NULL,
    sent_us         BIGINT
);
CREATE INDEX notifications_pending ON notifications (created_us) WHERE sent_us IS NULL;

CREATE TABLE clips (
    -- The id of the event that the recording proves.
    id              UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT,
    device_id       UUID NOT NULL,
    sha256          TEXT NOT NULL,
    bytes           BIGINT NOT NULL,
    duration_ms     BIGINT NOT NULL,
    format          TEXT NOT NULL,
    -- expected, uploading, stored.
    status          TEXT NOT NULL,
    stored_us       BIGINT
);

CREATE TABLE telemetry (
    device_id       UUID NOT NULL,
    boot            BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    unix_us         BIGINT NOT NULL,
    received_us     BIGINT NOT NULL,
    agent_version   TEXT NOT NULL,
    model_tag       TEXT NOT NULL,
    uptime_s        BIGINT NOT NULL,
    windows         BIGINT NOT NULL,
    inference_p50_us BIGINT NOT NULL,
    inference_p99_us BIGINT NOT NULL,
    dropped_samples BIGINT NOT NULL,
    gaps            BIGINT NOT NULL,
    outbox_records  BIGINT NOT NULL,
    outbox_oldest_s BIGINT NOT NULL,
    outbox_dropped  BIGINT NOT NULL,
    clips_pending   BIGINT NOT NULL,
    disk_free_mib   BIGINT NOT NULL,
    cpu_temperature_c DOUBLE PRECISION,
    noise_floor_dbfs DOUBLE PRECISION NOT NULL,
    source          TEXT NOT NULL,
    PRIMARY KEY (device_id, boot, seq)
);
CREATE INDEX telemetry_received ON telemetry (received_us);

-- Payloads that are no records, kept for a person to look at; the newest thousand.
CREATE TABLE quarantine (
    id              BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    received_us     BIGINT NOT NULL,
    topic           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    payload         BYTEA NOT NULL
);
