CREATE TABLE IF NOT EXISTS candidates (
    at_us INTEGER NOT NULL,
    class TEXT NOT NULL,
    score REAL NOT NULL,
    confirmation REAL NOT NULL,
    threshold REAL NOT NULL,
    stopped TEXT NOT NULL,
    level_dbfs REAL NOT NULL,
    noise_floor_dbfs REAL NOT NULL,
    windows INTEGER NOT NULL,
    -- Scores of the best window in 1/255, the model's class order.
    scores BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS candidates_by_time ON candidates (at_us);

CREATE TABLE IF NOT EXISTS events (
    at_us INTEGER NOT NULL,
    class TEXT NOT NULL,
    score REAL NOT NULL,
    threshold REAL NOT NULL,
    level_dbfs REAL NOT NULL,
    alert INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_by_time ON events (at_us);

CREATE TABLE IF NOT EXISTS minutes (
    -- The minute begins here.
    at_us INTEGER PRIMARY KEY,
    windows INTEGER NOT NULL,
    speech INTEGER NOT NULL,
    noise_floor_dbfs REAL,
    -- JSON: class to highest score.
    highest TEXT NOT NULL
) STRICT;
