CREATE TABLE records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    boot INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    envelope BLOB NOT NULL,
    document TEXT,
    UNIQUE (boot, seq)
) STRICT;
CREATE INDEX records_to_send ON records (priority, id);

CREATE TABLE clips (
    event BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    format TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_us INTEGER NOT NULL
) STRICT;

CREATE TABLE open_events (
    event BLOB PRIMARY KEY,
    stream TEXT NOT NULL,
    class TEXT NOT NULL,
    onset_sample INTEGER NOT NULL,
    unix_us INTEGER NOT NULL,
    time_quality INTEGER NOT NULL,
    -- An encoded envelope of the detection so far.
    so_far BLOB NOT NULL
) STRICT;

CREATE TABLE replay (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    stream TEXT NOT NULL,
    sample INTEGER NOT NULL,
    item INTEGER NOT NULL,
    item_start INTEGER NOT NULL
) STRICT;

CREATE TABLE replay_ends (
    class TEXT PRIMARY KEY,
    sample INTEGER NOT NULL
) STRICT;

CREATE TABLE boots (
    boot INTEGER PRIMARY KEY
) STRICT;
