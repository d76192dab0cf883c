-- Who may do what, who did what, and what stations are told.

CREATE TABLE users (
    id              BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    name            TEXT NOT NULL,
    -- Argon2id in PHC form.
    password        TEXT NOT NULL,
    -- admin, reviewer, ranger, technician, viewer.
    role            TEXT NOT NULL,
    -- JSON array of site ids; NULL for all.
    sites           TEXT,
    created_us      BIGINT NOT NULL,
    disabled_us     BIGINT
);
CREATE UNIQUE INDEX users_name ON users (name);

CREATE TABLE sessions (
    -- Of the token in the cookie; the token itself is nowhere.
    token_sha256    TEXT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    user_id         BLOB NOT NULL,
    created_us      BIGINT NOT NULL,
    used_us         BIGINT NOT NULL,
    expires_us      BIGINT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);

CREATE TABLE api_keys (
    id              BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    name            TEXT NOT NULL,
    secret_sha256   TEXT NOT NULL,
    role            TEXT NOT NULL,
    sites           TEXT,
    created_us      BIGINT NOT NULL,
    created_by      TEXT NOT NULL,
    expires_us      BIGINT,
    revoked_us      BIGINT
);
CREATE UNIQUE INDEX api_keys_secret ON api_keys (secret_sha256);

-- What was done, by whom. Each row's hash covers the row before: one that is changed or taken out
-- shows.
CREATE TABLE audit (
    number          BIGINT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    at_us           BIGINT NOT NULL,
    actor           TEXT NOT NULL,
    action          TEXT NOT NULL,
    target          TEXT NOT NULL,
    detail          TEXT NOT NULL,
    hash            TEXT NOT NULL
);

CREATE TABLE sites (
    id              TEXT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    name            TEXT NOT NULL,
    -- IANA name.
    time_zone       TEXT NOT NULL,
    latitude        DOUBLE PRECISION,
    longitude       DOUBLE PRECISION,
    created_us      BIGINT NOT NULL
);

-- Codes by which a station gets its credentials, once.
CREATE TABLE enrolments (
    code_sha256     TEXT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    device_name     TEXT NOT NULL,
    created_us      BIGINT NOT NULL,
    expires_us      BIGINT NOT NULL,
    used_us         BIGINT,
    device_id       BLOB
);

CREATE TABLE credentials (
    device_id       BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    secret_sha256   TEXT NOT NULL,
    -- As Mosquitto's password file has it.
    mqtt_hash       TEXT NOT NULL,
    created_us      BIGINT NOT NULL,
    revoked_us      BIGINT
);

-- What a station should run: published retained, so that it finds it whenever it comes back.
CREATE TABLE desired (
    device_id       BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    version         BIGINT NOT NULL,
    -- JSON object.
    document        TEXT NOT NULL,
    updated_us      BIGINT NOT NULL,
    updated_by      TEXT NOT NULL
);

CREATE TABLE commands (
    id              BLOB NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    device_id       BLOB NOT NULL,
    name            TEXT NOT NULL,
    payload         TEXT NOT NULL,
    created_us      BIGINT NOT NULL,
    created_by      TEXT NOT NULL,
    expires_us      BIGINT NOT NULL,
    -- When the broker took it.
    sent_us         BIGINT,
    answered_us     BIGINT,
    answer          TEXT
);
CREATE INDEX commands_device ON commands (device_id, created_us, id);

-- A station that was taken down: kept for its history, shown no more.
ALTER TABLE devices ADD COLUMN retired_us BIGINT;

CREATE INDEX events_received ON events (received_us);

-- Lists of one site, and of one class, newest first.
CREATE INDEX events_site ON events (site_id, listed_us, id);
CREATE INDEX events_class ON events (class, listed_us, id);
