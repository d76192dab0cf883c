//! Laws of the job queue, on both databases.

use ecosight_cloud::store::{Attempt, NewJob, Outcome};
use uuid::Uuid;

use crate::databases::{Database, on_both_databases};

const LEASE: i64 = 60;

fn job(n: u8, key: Option<&str>) -> NewJob {
    NewJob {
        id: Uuid::from_bytes([n; 16]),
        kind: "retrain",
        payload: "{}".into(),
        unique_key: key.map(str::to_owned),
        now_us: i64::from(n),
    }
}

async fn claim(database: &Database, owner: &str, now_us: i64) -> Option<Attempt> {
    let claimed = database.store.claim_job(owner, now_us, now_us + LEASE).await.unwrap();
    claimed.map(|(_, attempt)| attempt)
}

async fn state(database: &Database, n: u8) -> String {
    database.store.job(Uuid::from_bytes([n; 16])).await.unwrap().unwrap().state
}

async fn a_job_is_done_by_one_worker_at_a_time_oldest_first(database: &Database) {
    let store = &database.store;
    for n in [2, 1, 3] {
        assert!(store.enqueue(job(n, None)).await.unwrap().is_some());
    }
    let workers = (0..8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.claim_job(&format!("w{n}"), 10, 70).await.unwrap() })
    });
    let mut claimed = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        claimed.extend(worker.await.unwrap().map(|(job, _)| job.id.as_bytes()[0]));
    }
    claimed.sort_unstable();
    assert_eq!(claimed, [1, 2, 3], "each once");
    assert!(claim(database, "late", 10).await.is_none());
}

async fn one_unfinished_job_has_a_key(database: &Database) {
    let store = &database.store;
    assert!(store.enqueue(job(1, Some("k"))).await.unwrap().is_some());
    assert!(store.enqueue(job(2, Some("k"))).await.unwrap().is_none());
    assert!(store.enqueue(job(3, Some("other"))).await.unwrap().is_some());
    let attempt = claim(database, "w", 10).await.unwrap();
    assert!(store.enqueue(job(4, Some("k"))).await.unwrap().is_none(), "running");
    assert!(store.end_attempt(&attempt, Outcome::Succeeded("{}".into()), 11).await.unwrap());
    assert!(store.enqueue(job(5, Some("k"))).await.unwrap().is_some(), "finished");
}

async fn whose_lease_ran_out_has_no_say(database: &Database) {
    let store = &database.store;
    store.enqueue(job(1, None)).await.unwrap();
    let dead = claim(database, "dead", 10).await.unwrap();
    assert!(store.renew_lease(&dead, 100, Some("half".into())).await.unwrap());
    assert!(claim(database, "next", 100).await.is_none(), "the lease holds");
    let next = claim(database, "next", 101).await.unwrap();
    assert_eq!((dead.number, next.number), (1, 2));
    assert!(!store.renew_lease(&dead, 500, None).await.unwrap());
    assert!(!store.end_attempt(&dead, Outcome::Succeeded("{}".into()), 102).await.unwrap());
    assert_eq!(state(database, 1).await, "running");
    // A worker that comes back under its old name is another attempt all the same.
    let imposter = Attempt { owner: "next".into(), ..dead };
    assert!(!store.end_attempt(&imposter, Outcome::Failed("x".into()), 103).await.unwrap());
    assert!(store.end_attempt(&next, Outcome::Succeeded("[1]".into()), 104).await.unwrap());
    let row = store.job(next.id).await.unwrap().unwrap();
    assert_eq!((row.state.as_str(), row.result.as_deref()), ("succeeded", Some("[1]")));
    assert_eq!((row.finished_us, row.lease_owner), (Some(104), None));
}

async fn every_job_ends(database: &Database) {
    let store = &database.store;
    store.enqueue(job(1, None)).await.unwrap();
    store.enqueue(job(2, None)).await.unwrap();
    let mut now_us = 10;
    // Attempts of both that die without a word, and one that asks for another time.
    for _ in 0..5 {
        assert!(claim(database, "w", now_us).await.is_some());
        let other = claim(database, "w", now_us).await.unwrap();
        if other.id.as_bytes()[0] == 2 {
            let retry = Outcome::Retry("later".into(), now_us + 1_000);
            assert!(store.end_attempt(&other, retry, now_us).await.unwrap());
        }
        now_us += 2_000;
    }
    assert!(claim(database, "w", now_us).await.is_none());
    for n in [1, 2] {
        let row = store.job(Uuid::from_bytes([n; 16])).await.unwrap().unwrap();
        assert_eq!((row.state.as_str(), row.attempts), ("failed", 5), "{n}");
        assert!(row.error.is_some() && row.finished_us.is_some(), "{n}");
    }
    let listed = store.jobs(Some("retrain"), None, 10).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(store.jobs(Some("other"), None, 10).await.unwrap().is_empty());
}

async fn an_interrupted_attempt_does_not_count(database: &Database) {
    let store = &database.store;
    store.enqueue(job(1, None)).await.unwrap();
    for now_us in 10..20 {
        let attempt = claim(database, "w", now_us).await.unwrap();
        assert_eq!(attempt.number, now_us - 9, "no number twice");
        let stopped = Outcome::Interrupted("stopped".into(), now_us);
        assert!(store.end_attempt(&attempt, stopped, now_us).await.unwrap());
        assert_eq!(state(database, 1).await, "queued");
    }
    // And then as many as any job has.
    for n in 0..5 {
        let attempt = claim(database, "w", 100).await.unwrap();
        assert!(store.end_attempt(&attempt, Outcome::Retry("x".into(), 100), 100).await.unwrap());
        assert_eq!(state(database, 1).await, if n < 4 { "queued" } else { "failed" });
    }
}

async fn counts_add_up(database: &Database) {
    let store = &database.store;
    assert_eq!(store.counter("predictions").await.unwrap(), 0);
    let adding = (0..20).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.add_to_counter("predictions", n).await.unwrap() })
    });
    for added in adding.collect::<Vec<_>>() {
        added.await.unwrap();
    }
    assert_eq!(store.counter("predictions").await.unwrap(), 190);
}

on_both_databases!(
    a_job_is_done_by_one_worker_at_a_time_oldest_first,
    one_unfinished_job_has_a_key,
    whose_lease_ran_out_has_no_say,
    every_job_ends,
    an_interrupted_attempt_does_not_count,
    counts_add_up,
);
