-- How a station said it is when it last told: the `health` of its status document, JSON. Absent until it told.
ALTER TABLE devices ADD COLUMN health TEXT;
