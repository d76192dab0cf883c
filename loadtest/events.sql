-- A year of events that ended yesterday: :events rows, in the order of their time.
SET synchronous_commit = off;

INSERT INTO devices (id, site_id, name, state, first_seen_us, last_seen_us)
SELECT md5('device' || d)::uuid, 'site-' || d % 20, 'station-' || d, 'online', 0, 0
FROM generate_series(0, 999) AS d;

INSERT INTO telemetry (device_id, boot, seq, site_id, unix_us, received_us, agent_version, model_tag,
    uptime_s, windows, inference_p50_us, inference_p99_us, dropped_samples, gaps, outbox_records,
    outbox_oldest_s, outbox_dropped, clips_pending, disk_free_mib, noise_floor_dbfs, source)
SELECT md5('device' || d)::uuid, 1, m, 'site-' || d % 20, now_us - m * 60000000::bigint, now_us - m * 60000000::bigint,
    '0.1.0', '01020304', m * 60, m * 125, 2000, 4000, 0, 0, 0, 0, 0, 0, 9000, -55, 'healthy'
FROM generate_series(0, 999) AS d, generate_series(1, 1000) AS m,
    (SELECT (extract(epoch FROM now()) * 1e6)::bigint AS now_us) AS clock;

INSERT INTO events (id, site_id, device_id, class, alert, canary, flags, complete, state, score,
    onset_us, time_quality, received_us, listed_us, duration_ms, decided_after_ms, windows, level_dbfs,
    noise_floor_dbfs, scores, model_tag, verdict, verdict_by, verdict_us)
SELECT (lpad(to_hex(at_us / 1000), 12, '0') || '7' || substr(hash, 1, 3) || 'a' || substr(hash, 4, 15))::uuid,
    'site-' || device % 20, md5('device' || device)::uuid,
    CASE WHEN shot THEN 'gun_shot'
        ELSE (ARRAY['background', 'dog', 'engine', 'branch', 'thunder', 'guineafowl'])[1 + n % 6] END,
    shot, false, 0, true, CASE WHEN shot AND n % 7000 = 0 THEN 'acknowledged' ELSE 'open' END,
    0.5 + (n % 499) / 1000.0, at_us, 'network', at_us + 1000000, at_us, 1440, 1100, 3, -12.5, -55,
    '[1,2,3,4,5,6]', '01020304',
    CASE WHEN shot AND n % 3000 = 0 THEN 'confirmed' WHEN shot AND n % 5000 = 0 THEN 'rejected' END,
    CASE WHEN shot AND (n % 3000 = 0 OR n % 5000 = 0) THEN 'user:1' END,
    CASE WHEN shot AND (n % 3000 = 0 OR n % 5000 = 0) THEN at_us END
FROM (
    SELECT n, md5(n::text) AS hash, n % 1000 = 0 AS shot,
        ('x' || substr(md5('at' || n), 1, 8))::bit(32)::bigint % 1000 AS device,
        (extract(epoch FROM now()) * 1e6)::bigint - 86400000000 - (:events - n) * (31536000000000 / :events) AS at_us
    FROM generate_series(1, :events) AS n
) AS numbered;
ANALYZE;
