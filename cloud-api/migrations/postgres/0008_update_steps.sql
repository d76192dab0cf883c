-- What stations said of releases, step by step: the last of each station, as many as the program keeps.
CREATE TABLE device_update_steps (
    device_id       UUID NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    step            TEXT NOT NULL,
    -- By the station's clock; no two words of one station are of one instant.
    at_us           BIGINT NOT NULL,
    tenant_id       TEXT NOT NULL DEFAULT 'default',
    received_us     BIGINT NOT NULL,
    release         TEXT NOT NULL,
    counter         BIGINT,
    code            TEXT,
    reason          TEXT,
    PRIMARY KEY (device_id, manifest_sha256, step, at_us)
);
CREATE INDEX device_update_steps_received ON device_update_steps (device_id, received_us);
