//! Law of the outbox: what was called durable is not in the way of what is written after it.
//!
//! When power fails in the middle of a write, a disk may leave anything in the sector that was being
//! written, also in that part of it which was there before. Here the log is copied after one commit and
//! after the next, and every sector in which the two differ is lost.

use std::path::Path;

use ecosight_agent::outbox::FILE;
use proptest::prelude::*;
use tempfile::tempdir;

use crate::station::write;
use crate::support::{Open, QUOTA, alert};

/// Sectors of disks, and pages of cards.
const SECTORS: [usize; 2] = [512, 4_096];

/// The files after a commit.
struct Copy {
    database: Vec<u8>,
    log: Vec<u8>,
    /// Records that were called durable.
    records: u32,
}

impl Copy {
    fn of(directory: &Path, records: u32) -> Self {
        let read = |name: String| std::fs::read(directory.join(name)).expect("reads");
        Self { database: read(FILE.to_owned()), log: read(format!("{FILE}-wal")), records }
    }

    /// What is left when the power goes while `next` is being written.
    fn torn_by(&self, next: &Self, sector: usize) -> Vec<u8> {
        let mut log = next.log.clone();
        for (number, new) in log.chunks_mut(sector).enumerate() {
            let from = number * sector;
            if self.log.get(from..from + new.len()) != Some(&*new) {
                new.fill(0);
            }
        }
        log
    }
}

/// Whether all that was durable before `next` is there when it is torn.
async fn check(before: &Copy, next: &Copy) {
    for sector in SECTORS {
        let directory = tempdir().expect("a directory");
        write(&directory.path().join(FILE), &next.database);
        write(&directory.path().join(format!("{FILE}-wal")), &before.torn_by(next, sector));
        let open = Open::at(directory.path(), 2, QUOTA).await;
        let kept: Vec<u32> = open.rows().await.iter().map(|row| row.seq).collect();
        let durable: Vec<u32> = (1..=before.records).collect();
        assert_eq!(kept, durable, "torn in sectors of {sector} bytes");
        open.close().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_torn_commit_takes_none_before_it_along(sizes in prop::collection::vec(1_u32..12, 2..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()
            .expect("a runtime");
        runtime.block_on(async {
            let directory = tempdir().expect("a directory");
            let open = Open::at(directory.path(), 1, QUOTA).await;
            let mut before: Option<Copy> = None;
            let mut records = 0;
            for size in sizes {
                let batch = (0..size).map(|number| alert(u64::from(records + number))).collect();
                open.outbox.append(batch, None).await.expect("written");
                records += size;
                let next = Copy::of(directory.path(), records);
                if let Some(before) = &before {
                    check(before, &next).await;
                }
                before = Some(next);
            }
            open.close().await;
        });
    }
}

#[tokio::test]
async fn a_torn_commit_takes_none_before_it_along_where_the_log_begins_anew() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    open.outbox.append(vec![alert(0)], None).await.expect("written");
    let mut before = Copy::of(directory.path(), 1);
    let mut checked = 0;
    // SQLite folds the log into the file when it has 1000 pages, and writes over it from then on.
    for number in 1..1_000 {
        open.outbox.append(vec![alert(number)], None).await.expect("written");
        let next = Copy::of(directory.path(), before.records + 1);
        let anew = next.log[..32] != before.log[..32];
        // A commit whose log was folded in at once was durable before the first page of the file was
        // written: no torn write of it goes with these pages.
        let folded = next.database != before.database;
        if (anew || (1..4).contains(&checked)) && !folded {
            check(&before, &next).await;
            checked += 1;
        }
        if checked == 4 {
            break;
        }
        before = next;
    }
    assert_eq!(checked, 4, "the log began anew");
    open.close().await;
}
