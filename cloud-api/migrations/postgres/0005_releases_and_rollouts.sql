-- Signed releases of models, and how they come to stations.

CREATE TABLE releases (
    id              UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    name            TEXT NOT NULL,
    version         TEXT NOT NULL,
    counter         BIGINT NOT NULL,
    -- JSON: the signed bytes and their signatures, as stations get them.
    signed          TEXT NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    -- What the manifest says, for lists and rules; stations read the manifest.
    minimum_agent   TEXT NOT NULL,
    expires_us      BIGINT NOT NULL,
    -- JSON array of ids, empty for any station.
    devices         TEXT NOT NULL,
    site_id         TEXT,
    -- The one release that it leads back from; all or none are set.
    replaces_name   TEXT,
    replaces_version TEXT,
    replaces_counter BIGINT,
    -- Tag of the bundle in it.
    model_tag       TEXT NOT NULL,
    bytes           BIGINT NOT NULL,
    created_us      BIGINT NOT NULL,
    created_by      TEXT NOT NULL
);
CREATE UNIQUE INDEX releases_manifest ON releases (manifest_sha256);
CREATE INDEX releases_listed ON releases (created_us, id);

CREATE TABLE release_files (
    release_id      UUID NOT NULL,
    -- In the manifest's order.
    place           BIGINT NOT NULL,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    path            TEXT NOT NULL,
    bytes           BIGINT NOT NULL,
    sha256          TEXT NOT NULL,
    PRIMARY KEY (release_id, place)
);
CREATE INDEX release_files_content ON release_files (sha256, release_id);

CREATE TABLE rollouts (
    id              UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    release_id      UUID NOT NULL,
    -- The signed release to go back by.
    revert_release_id UUID,
    -- draft, running, paused, halted, done, rolled_back.
    state           TEXT NOT NULL,
    -- The last cohort that has its turn, from 0.
    cohort          BIGINT NOT NULL,
    reached_us      BIGINT,
    since_us        BIGINT NOT NULL,
    reason          TEXT,
    -- JSON.
    plan            TEXT NOT NULL,
    -- Rises with every change: whoever decided on an older one decides again.
    version         BIGINT NOT NULL,
    created_us      BIGINT NOT NULL,
    created_by      TEXT NOT NULL,
    started_us      BIGINT,
    finished_us     BIGINT,
    updated_us      BIGINT NOT NULL
);
CREATE INDEX rollouts_listed ON rollouts (created_us, id);
CREATE INDEX rollouts_updated ON rollouts (updated_us);

CREATE TABLE rollout_devices (
    rollout_id      UUID NOT NULL,
    device_id       UUID NOT NULL,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    cohort          BIGINT NOT NULL,
    step            TEXT NOT NULL,
    -- When it was told first.
    offered_us      BIGINT,
    -- When it was told or last spoke of this release.
    heard_us        BIGINT NOT NULL,
    -- `received_us` of its last word that was taken note of.
    known_us        BIGINT NOT NULL,
    committed_us    BIGINT,
    code            TEXT,
    reason          TEXT,
    PRIMARY KEY (rollout_id, device_id)
);
CREATE INDEX rollout_devices_device ON rollout_devices (device_id, rollout_id);

-- What each station last said of a release; the newest word by its own clock.
CREATE TABLE device_updates (
    device_id       UUID NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    site_id         TEXT NOT NULL,
    release         TEXT NOT NULL,
    -- Exactly which; empty if the station could read none.
    manifest_sha256 TEXT NOT NULL,
    counter         BIGINT,
    step            TEXT NOT NULL,
    code            TEXT,
    reason          TEXT,
    at_us           BIGINT NOT NULL,
    received_us     BIGINT NOT NULL,
    active_name     TEXT NOT NULL,
    active_version  TEXT NOT NULL,
    active_tag      TEXT NOT NULL,
    -- JSON of the trial's counts.
    trial           TEXT
);
CREATE INDEX device_updates_received ON device_updates (received_us);

-- What a station should run has two parts: settings (`document`) and a model. Both go out in one
-- retained message; one whose version is above `published_version` is still to be sent.
ALTER TABLE desired ADD COLUMN model TEXT;
ALTER TABLE desired ADD COLUMN model_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE desired ADD COLUMN published_version BIGINT NOT NULL DEFAULT 0;
CREATE INDEX desired_unpublished ON desired (updated_us) WHERE version > published_version;

-- Work that one process of many does at a time.
CREATE TABLE leases (
    name            TEXT NOT NULL PRIMARY KEY,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    owner           TEXT NOT NULL,
    until_us        BIGINT NOT NULL
);
