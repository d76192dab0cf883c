//! Half an hour of forest with 60 shots, heard while everything is killed.

use std::env;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use crate::world::{self, HeardEvent, StoredAlert, TrueEvent, World};

const SEED: u64 = 0x5EED;
/// A stored onset may differ from the undisturbed run's by this much, in seconds: nothing but the
/// rounding of times.
const ONSET_TOLERANCE_S: f64 = 0.002;
const ALERT_CLASS: &str = "gun_shot";
const DELIVERY_LIMIT: Duration = Duration::from_secs(300);

/// What strikes, in the order in which it does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    KillStation,
    RestartBroker,
    KillServer,
}

#[test]
fn every_confirmed_shot_arrives_once_whatever_is_killed() -> Result<()> {
    let Some(yamnet_file) = world::yamnet_file() else {
        ensure!(env::var_os("CI").is_none(), "CI needs ../shared/yamnet");
        eprintln!("skipped: needs ../shared/yamnet/yamnet.tflite");
        return Ok(());
    };
    let folder = TempDir::new()?;
    let yamnet = World::import(folder.path(), &yamnet_file)?;
    let (wav, truth, heard) = world::scene(folder.path(), &yamnet)?;
    let shots: Vec<&TrueEvent> = truth.iter().filter(|event| is_shot(event)).collect();
    let expected: Vec<&HeardEvent> =
        heard.iter().filter(|event| event.class == ALERT_CLASS).collect();
    ensure!(shots.len() >= 55, "the scene has only {} shots", shots.len());
    // Fewer alerts would leave the faults nothing to break; how many are heard is not judged here.
    ensure!(expected.len() >= 8, "only {} of {} shots are heard", expected.len(), shots.len());

    let station = world::replay(&wav, &yamnet);
    let model = ["--yamnet", world::text(&yamnet)?];
    let mut world = World::start(folder, &station, "", &model)?;
    let started = Instant::now();
    world.start_station()?;
    let strikes = strike_all(&mut world, expected.len())?;
    world.wait_for_station(DELIVERY_LIMIT).with_context(|| world.logs())?;
    let alerts = settled(&world, expected.len())?;
    let elapsed = started.elapsed();

    let onsets = each_expected_shot_is_stored_once(&expected, &alerts)?;
    for alert in &alerts {
        let clip = alert.clip.as_ref().with_context(|| format!("{alert:?} has no clip"))?;
        ensure!(clip.status == "stored", "{alert:?}");
        ensure!(world.clip_bytes(clip)? == clip.bytes, "{alert:?}: the clip is cut short");
    }
    let shown = world.shown()?;
    for alert in &alerts {
        ensure!(
            shown.get(&alert.id) == Some(&1),
            "{alert:?} was shown {:?} times",
            shown.get(&alert.id)
        );
    }
    ensure!(shown.len() == alerts.len(), "{} events shown, {} stored", shown.len(), alerts.len());
    let found =
        shots.iter().filter(|shot| onsets.iter().any(|onset| (onset - shot.onset_s).abs() < 1.0));
    println!(
        "{} shots in the scene, {} found, {} alerts, each stored once with its clip and shown once; \
         {strikes} in {:.0} s",
        shots.len(),
        found.count(),
        alerts.len(),
        elapsed.as_secs_f64(),
    );
    Ok(())
}

/// Strikes with every fault, spread over the run by what has arrived, at moments that the seed picks.
fn strike_all(world: &mut World, expected: usize) -> Result<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let schedule = schedule();
    for (index, fault) in schedule.iter().enumerate() {
        let due = expected * index / (schedule.len() + 1);
        let waiting = Instant::now();
        while world.alerts().map_or(0, |alerts| alerts.len()) < due {
            ensure!(
                waiting.elapsed() < DELIVERY_LIMIT,
                "no progress before {fault:?}:\n{}",
                world.logs()
            );
            sleep(Duration::from_millis(20));
        }
        sleep(Duration::from_millis(rng.random_range(0..400)));
        match fault {
            Fault::KillStation => {
                ensure!(
                    world.kill_station()?,
                    "the station ended before kill {index}: slow the run down"
                );
                world.start_station()?;
            }
            Fault::RestartBroker => {
                world.broker.stop()?;
                sleep(Duration::from_millis(rng.random_range(100..1_000)));
                world.broker.run()?;
            }
            Fault::KillServer => {
                world.kill_server()?;
                world.start_server()?;
            }
        }
    }
    let count = |fault| schedule.iter().filter(|&&struck| struck == fault).count();
    Ok(format!(
        "{} kills of the station, {} of the server, {} restarts of the broker",
        count(Fault::KillStation),
        count(Fault::KillServer),
        count(Fault::RestartBroker)
    ))
}

/// All faults, the rarer ones evenly between the kills of the station.
fn schedule() -> Vec<Fault> {
    let mut faults = vec![Fault::KillStation; 10];
    for at in [8, 5, 2] {
        faults.insert(at, Fault::RestartBroker);
    }
    for at in [9, 4] {
        faults.insert(at, Fault::KillServer);
    }
    faults
}

/// The server's alerts once all are there with their clips and the ranger has been shown them.
fn settled(world: &World, expected: usize) -> Result<Vec<StoredAlert>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let alerts = world.alerts()?;
        let stored =
            |alert: &StoredAlert| alert.clip.as_ref().is_some_and(|clip| clip.status == "stored");
        if alerts.len() >= expected
            && alerts.iter().all(stored)
            && world.shown()?.len() >= alerts.len()
        {
            // A moment more for what must not come: a second copy.
            sleep(Duration::from_secs(3));
            return world.alerts();
        }
        ensure!(
            Instant::now() < deadline,
            "{} of {expected} alerts, {} with clip, {} shown\n{}",
            alerts.len(),
            alerts.iter().filter(|alert| stored(alert)).count(),
            world.shown()?.len(),
            world.logs()
        );
        sleep(Duration::from_millis(200));
    }
}

/// Pairs the undisturbed run's events with the stored alerts, one to one, by onset.
fn each_expected_shot_is_stored_once(
    expected: &[&HeardEvent],
    alerts: &[StoredAlert],
) -> Result<Vec<f64>> {
    let mut onsets = alerts.iter().map(StoredAlert::onset_s).collect::<Result<Vec<f64>>>()?;
    onsets.sort_by(f64::total_cmp);
    ensure!(
        alerts.iter().all(|alert| alert.class == ALERT_CLASS),
        "a foreign class among the alerts"
    );
    ensure!(
        onsets.len() == expected.len()
            && onsets
                .iter()
                .zip(expected)
                .all(|(onset, event)| (onset - event.start_s).abs() <= ONSET_TOLERANCE_S),
        "heard undisturbed: {:?}\nstored: {onsets:?}",
        expected.iter().map(|event| event.start_s).collect::<Vec<_>>()
    );
    Ok(onsets)
}

fn is_shot(event: &TrueEvent) -> bool {
    event.sound == "gun_shot"
}
