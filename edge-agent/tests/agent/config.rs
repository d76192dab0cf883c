//! Configuration: defaults, overrides, and every fault at once.

use std::path::Path;
use std::time::Duration;

use ecosight_agent::config::{Config, ConfigError, EXAMPLE, SourceKind, Speed};

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::parse(Some((Path::new("/etc/ecosight/agent.toml"), text)), variables)
}

fn faults(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let error = parse(text, environment).expect_err("faults");
    error.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_is_the_default() {
    assert_eq!(parse(EXAMPLE, &[]).expect("valid"), Config::default());
    assert_eq!(parse("", &[]).expect("valid"), Config::default());
}

#[test]
fn commented_settings_of_the_example_are_valid_too() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") && !setting.contains("ECOSIGHT__") => setting,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    let config = parse(&uncommented, &[]).expect("valid");
    assert_eq!(config.station.location.expect("set").lat, -2.3333);
    assert_eq!(config.source.rate, Some(48_000));
    assert_eq!(config.model.thresholds["gun_shot"], 0.8);
}

#[test]
fn settings_are_read() {
    let text = r#"
        [station]
        name = "ridge-7"
        location = { lat = -1.5, lon = 36.25 }
        [source]
        kind = "dir"
        path = "/srv/night"
        speed = "max"
        loop = true
        [mqtt]
        url = "mqtts://broker.example.org"
        resend_after = "2s"
        [storage]
        reserve = "1.5GB"
    "#;
    let config = parse(text, &[]).expect("valid");
    assert_eq!(config.station.name.as_str(), "ridge-7");
    assert_eq!(config.source.kind, SourceKind::Directory);
    assert_eq!(config.source.speed, Speed::Maximum);
    assert!(config.source.repeat);
    assert_eq!(config.mqtt.resend_after, Duration::from_secs(2));
    let broker = config.mqtt.broker().expect("valid");
    assert_eq!(
        (broker.host.as_str(), broker.port, broker.tls),
        ("broker.example.org", 8_883, true)
    );
    assert_eq!(config.storage.reserve.0, 1_500_000_000);
}

#[test]
fn the_environment_overrides_the_file() {
    let text = "[mqtt]\nurl = \"mqtt://file\"\n[source]\nseed = 3\n";
    let environment = [
        ("ECOSIGHT__MQTT__URL", "mqtt://[::1]:1884"),
        ("ECOSIGHT__SOURCE__SEED", "9"),
        ("ECOSIGHT__SOURCE__LOOP", "true"),
        ("ECOSIGHT__MODEL__THRESHOLDS__GUN_SHOT", "0.7"),
        ("ECOSIGHT__CLOUD__URL", ""),
        ("PATH", "/bin"),
    ];
    let config = parse(text, &environment).expect("valid");
    let broker = config.mqtt.broker().expect("valid");
    assert_eq!((broker.host.as_str(), broker.port), ("::1", 1_884));
    assert_eq!(config.source.seed, 9);
    assert!(config.source.repeat);
    assert_eq!(config.model.thresholds["gun_shot"], 0.7);
    assert_eq!(config.cloud.url, None);
}

#[test]
fn every_fault_is_reported_at_once_with_its_place() {
    let text = r#"[station]
name = "Ridge 7"
nmae = "ridge-7"
location = { lat = 91.0 }
[source]
kind = "microphone"
sped = "max"
rate = 10
[mqtt]
url = "http://broker"
keep_alive = "2 fortnights"
cert = "/nonexistent/cert.pem"
[cloud]
url = "not a url"
"#;
    let found = faults(text, &[("ECOSIGHT__STORAGE__RESERVE", "lots")]);
    for expected in [
        "agent.toml:2: station.name: expected 1 to 32 of a-z",
        "agent.toml:3: station.nmae: unknown setting; did you mean `station.name`?",
        "agent.toml:4: station.location.lat: expected degrees from -90 to 90",
        "agent.toml:4: station.location.lat: a latitude needs a longitude",
        "agent.toml:6: source.kind: expected one of \"mic\", \"file\"",
        "agent.toml:7: source.sped: unknown setting; did you mean `source.speed`?",
        "agent.toml:8: source.rate: expected 8000 to 384000",
        "agent.toml:10: mqtt.url: expected mqtt://host[:port]",
        "agent.toml:11: mqtt.keep_alive: expected a duration",
        "agent.toml:12: mqtt.cert: a certificate needs its key",
        "agent.toml:12: mqtt.cert: there is no file /nonexistent/cert.pem",
        "agent.toml:14: cloud.url: not a URL",
        "environment ECOSIGHT__STORAGE__RESERVE: storage.reserve: expected a size",
    ] {
        let hits = found.iter().filter(|fault| fault.starts_with(expected)).count();
        assert_eq!(hits, 1, "{expected:?} among {found:#?}");
    }
    assert_eq!(found.len(), 13, "{found:#?}");
}

#[test]
fn keys_of_releases_are_read_from_brackets_or_the_environment() {
    let key = |n: u8| ecosight_shared::release::SecretKey::from_seed(&[n; 32]).public();
    let text = format!("[update]\ntrusted_keys = [\"{}\", \"{}\"]\n", key(1), key(2));
    assert_eq!(parse(&text, &[]).expect("valid").update.trusted_keys, [key(1), key(2)]);
    let environment = [("ECOSIGHT__UPDATE__TRUSTED_KEYS", &*key(3).to_string())];
    assert_eq!(parse(&text, &environment).expect("valid").update.trusted_keys, [key(3)]);
    let none = [("ECOSIGHT__UPDATE__TRUSTED_KEYS", "")];
    assert_eq!(parse(&text, &none).expect("valid").update.trusted_keys, []);
    for (written, problem) in [
        ("\"abc\"".to_owned(), "expected public keys in brackets"),
        ("[\"abc\"]".to_owned(), "expected a public key: 44 characters of base64, found \"abc\""),
        ("[1]".to_owned(), "expected public keys in brackets"),
        (format!("[\"{0}\", \"{0}\", \"{0}\"]", key(1)), "expected at most two"),
    ] {
        let found = faults(&format!("[update]\ntrusted_keys = {written}\n"), &[]);
        assert!(found[0].contains(problem), "{written}: {found:?}");
    }
    let found = faults("[update]\ntrusted_key = []\n", &[]);
    assert!(found[0].contains("did you mean `update.trusted_keys`?"), "{found:?}");
}

#[test]
fn a_setting_in_the_wrong_section_is_found() {
    let found = faults("[storage]\ninterval = \"5s\"\n", &[]);
    assert!(found[0].contains("did you mean `telemetry.interval`?"), "{found:?}");
}

#[test]
fn text_that_is_no_toml_is_a_fault_with_its_line() {
    let found = faults("[station]\nname = \"a\nsite = \"b\"\n", &[]);
    assert!(found[0].starts_with("agent.toml:2: "), "{found:?}");
}

#[test]
fn a_file_that_was_asked_for_and_is_not_there_is_a_fault() {
    let error = Config::load(Some(Path::new("/nonexistent/agent.toml"))).expect_err("no file");
    assert!(error.to_string().contains("/nonexistent/agent.toml"), "{error}");
}

#[test]
fn broker_addresses_are_checked() {
    for (url, problem) in [
        ("broker", "expected mqtt://host[:port]"),
        ("ws://broker", "found scheme \"ws\""),
        ("mqtt://", "expected mqtt://host[:port]"),
        ("mqtt://broker:0", "expected a port from 1 to 65535"),
        ("mqtt://broker:port", "expected a port from 1 to 65535"),
        ("mqtt://user:secret@broker", "set `username` and `password_file`"),
        ("mqtt://broker/path", "expected mqtt://host[:port]"),
    ] {
        let found = faults(&format!("[mqtt]\nurl = \"{url}\"\n"), &[]);
        assert!(found[0].contains(problem), "{url}: {found:?}");
    }
}
