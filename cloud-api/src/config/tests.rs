use std::time::Duration;

use super::{BrokerChoice, Config, ConfigError, default_file};

fn from_file(text: &str) -> Result<Config, ConfigError> {
    Config::read(Some(("cloud.toml", text)), std::iter::empty())
}

fn from_environment(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(None, pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

#[test]
fn the_default_file_parses_equal_to_the_default() {
    assert_eq!(from_file(&default_file()).unwrap(), Config::default());
    assert!(Config::default().validate().is_empty());
}

#[test]
fn every_fault_is_reported_at_once_with_its_line() {
    let text = "[http]\nlisten = \"here\"\nmax_conections = 5\n\n[mqtt]\nbroker = \"mqtts://x\"\n\n[htpp]\nlisten = 1\n";
    let ConfigError(faults) = from_file(text).unwrap_err();
    let places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
    assert_eq!(faults.len(), 4, "{faults:?}");
    for place in ["cloud.toml:2", "cloud.toml:3", "cloud.toml:6", "cloud.toml:8"] {
        assert!(places.contains(&place), "{place} is missing in {places:?}");
    }
    let all = faults.iter().map(ToString::to_string).collect::<String>();
    assert!(all.contains("did you mean \"max_connections\"?"), "{all}");
    assert!(all.contains("did you mean \"http\"?"), "{all}");
}

#[test]
fn a_rate_of_false_alarms_is_one_that_models_have_a_threshold_for() {
    let budget = |text: &str| from_file(&format!("[learning]\nalarms_per_hour = {text}\n"));
    assert_eq!(Config::default().learning.budget(), None);
    assert_eq!(budget("\"0.33\"").unwrap().learning.budget(), Some(0.33));
    assert_eq!(budget("3").unwrap().learning.budget(), Some(3.0));
    for wrong in ["\"2\"", "5", "\"often\"", "-1"] {
        let ConfigError(faults) = budget(wrong).unwrap_err();
        assert!(faults[0].what.contains("\"0.33\", \"1\", \"3\", \"10\""), "{faults:?}");
    }
}

#[test]
fn a_broken_file_names_the_line() {
    let ConfigError(faults) = from_file("[http]\nlisten = \"127.0.0.1:1\n").unwrap_err();
    assert_eq!(faults[0].place, "cloud.toml:2", "{faults:?}");
}

#[test]
fn rules_of_keeping_are_read_and_shown_the_same() {
    let text = "[storage]\nkeep_events = [\"dog=12h\", \"*=400d\"]\n";
    let config = from_file(text).unwrap();
    let rules = &config.storage.keep_events;
    assert_eq!(rules[0].class.as_deref(), Some("dog"));
    assert_eq!((rules[1].class.as_ref(), rules[1].keep.as_secs()), (None, 400 * 86_400));
    for wrong in ["dog", "=3d", "dog=3", "dog=", "*=1d,*=2d"] {
        let fault = from_environment(&[("ECOSIGHT__STORAGE__KEEP_EVENTS", wrong)]);
        assert!(fault.is_err(), "{wrong:?} was taken for rules");
    }
}

#[test]
fn the_environment_has_precedence_over_the_file() {
    let file = "[http]\nlisten = \"127.0.0.1:1\"\nidle_timeout = \"5m\"\n";
    let variables = [("ECOSIGHT__HTTP__LISTEN".to_owned(), "127.0.0.1:2".to_owned())];
    let config = Config::read(Some(("f", file)), variables.into_iter()).unwrap();
    assert_eq!(config.http.listen.port(), 2);
    assert_eq!(config.http.idle_timeout, Duration::from_secs(300));
}

#[test]
fn variables_of_the_agent_are_left_alone_and_typing_errors_are_not() {
    let config = from_environment(&[("ECOSIGHT__STATION__NAME", "x"), ("PATH", "y")]);
    assert_eq!(config.unwrap(), Config::default());
    let ConfigError(faults) = from_environment(&[("ECOSIGHT__HTTP__LISTN", "x")]).unwrap_err();
    assert!(faults[0].what.contains("did you mean \"listen\"?"), "{faults:?}");
}

#[test]
fn who_can_be_reached_by_others_counts_what_they_ask() {
    let rate =
        |text: &str| from_file(&format!("[http]\n{text}\n")).unwrap().http.requests_a_second();
    assert_eq!(rate(""), None);
    assert_eq!(rate("listen = \"0.0.0.0:8000\""), Some(100));
    assert_eq!(rate("listen = \"0.0.0.0:8000\"\nrate_limit = 0"), None);
    assert_eq!(rate("rate_limit = 7"), Some(7));
    assert_eq!(rate("trusted_proxies = [\"127.0.0.1\"]"), Some(100));
    for wrong in ["nginx", "10.0.0.0/8", "10.0.0.2:80"] {
        assert!(
            from_environment(&[("ECOSIGHT__HTTP__TRUSTED_PROXIES", wrong)]).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn stations_are_told_only_what_they_can_use() {
    for url in ["", "mqtt://127.0.0.1:1883", "mqtts://broker.example"] {
        let config = from_file(&format!("[mqtt]\nstations_url = \"{url}\"\n")).unwrap();
        assert_eq!(config.mqtt.stations_url, url);
    }
    for url in ["broker.example", "http://broker", "mqtt://", "mqtt://user:secret@broker"] {
        let ConfigError(faults) =
            from_file(&format!("[mqtt]\nstations_url = \"{url}\"\n")).unwrap_err();
        assert_eq!(faults[0].place, "cloud.toml:2", "{faults:?}");
    }
}

#[test]
fn brokers_are_read_and_shown_the_same() {
    for text in ["embedded", "mqtt://broker.example:1884", "mqtt://[::1]:1883"] {
        let choice: BrokerChoice = text.parse().unwrap();
        assert_eq!(choice.to_string(), text);
    }
    for text in ["", "mqtt://", "mqtt://host:0", "mqtt://user@host", "tcp://host:1", "embeded"] {
        assert!(text.parse::<BrokerChoice>().is_err(), "{text:?} was taken for a broker");
    }
}

#[test]
fn a_broker_that_others_can_reach_is_refused_with_the_reason() {
    let config = from_file("[mqtt]\nlisten = \"[::]:1883\"\n").unwrap();
    let faults = config.validate();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].what.contains("passwords"), "{faults:?}");
    let config =
        from_file("[mqtt]\nlisten = \"[::]:1883\"\nbroker = \"mqtt://10.0.0.1\"\n").unwrap();
    assert!(config.validate().is_empty(), "an external broker does not use mqtt.listen");
}

#[test]
fn the_data_directory_follows_the_usual_places() {
    let config = Config::default();
    let dir = |pairs: &'static [(&str, &str)]| {
        config.data_dir(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    };
    assert_eq!(dir(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]).to_str(), Some("/x/ecosight/cloud"));
    assert_eq!(dir(&[("HOME", "/h")]).to_str(), Some("/h/.local/share/ecosight/cloud"));
    assert_eq!(dir(&[]).to_str(), Some("/var/lib/ecosight/cloud"));
    assert_eq!(dir(&[("STATE_DIRECTORY", "/s"), ("HOME", "/h")]).to_str(), Some("/s/cloud"));
}
