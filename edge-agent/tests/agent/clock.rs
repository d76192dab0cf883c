//! How far the clock may be trusted.

use ecosight_agent::clock::{Clock, Discipline};
use ecosight_shared::TimeQuality;

use crate::support::START_US;

#[test]
fn what_chrony_and_systemd_say_is_understood() {
    let chrony = "A9FEA97B,169.254.169.123,4,1772388000.104,0.000012331,-0.000008113,0.000021,\
                  -11.324,-0.001,0.031,0.000471,0.000312,64.7,Normal\n";
    let network = Discipline { quality: TimeQuality::Network, offset_us: Some(12) };
    assert_eq!(Discipline::of_chrony(chrony), Some(network));
    let gps = chrony.replace("169.254.169.123", "GPS0").replace("0.000012331", "-0.004");
    let satellite = Discipline { quality: TimeQuality::Gps, offset_us: Some(-4_000) };
    assert_eq!(Discipline::of_chrony(&gps), Some(satellite));
    let lost = chrony.replace("Normal", "Not synchronised");
    let free = Discipline { quality: TimeQuality::FreeRunning, offset_us: None };
    assert_eq!(Discipline::of_chrony(&lost), Some(free));
    for nonsense in ["", "506 Cannot talk to daemon", "a,b,c", ",,,,,,"] {
        assert_eq!(Discipline::of_chrony(nonsense), None, "{nonsense}");
    }
    let quality = |text| Discipline::of_systemd(text).map(|d| d.quality);
    assert_eq!(quality("yes\n"), Some(TimeQuality::Network));
    assert_eq!(quality("no\n"), Some(TimeQuality::FreeRunning));
    assert_eq!(quality("Failed to connect to bus"), None);
}

#[test]
fn a_clock_that_was_never_set_is_unknown_whatever_is_said_of_it() {
    let clock = Clock::from_fn(|| 5_000_000);
    clock.note(Discipline { quality: TimeQuality::Gps, offset_us: Some(3) });
    assert_eq!(clock.quality(), TimeQuality::Unknown);
    let clock = Clock::from_fn(|| START_US);
    assert_eq!(clock.offset_ms(), None);
    clock.note(Discipline { quality: TimeQuality::Network, offset_us: Some(-2_500) });
    // Clones, wherever they are, know it too.
    assert_eq!(clock.clone().quality(), TimeQuality::Network);
    assert_eq!(clock.offset_ms(), Some(-2.5));
}
