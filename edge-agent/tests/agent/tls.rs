//! MQTT over TLS, both sides proved by certificates, against a real broker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ecosight_agent::config;
use ecosight_agent::uplink::{Connection, Happening, options};
use ecosight_loadtest::{Program, free_port};
use tempfile::{TempDir, tempdir};

use crate::station::write;

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

struct Broker {
    folder: TempDir,
    port: u16,
    _running: Program,
}

/// openssl, or false where it is not installed and tests need not be complete.
fn openssl(folder: &Path, arguments: &[&str]) -> bool {
    let run = Command::new("openssl").args(arguments).current_dir(folder).output();
    match run {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => false,
    }
}

/// An authority `name` and certificates that it signs for a server and a station.
fn authority(folder: &Path, name: &str) -> bool {
    let (key, cert) = (format!("{name}.key"), format!("{name}.crt"));
    let subject = format!("/CN={name}");
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let arguments = [
        &["req", "-x509"][..],
        &curve,
        &["-keyout", &key, "-out", &cert, "-days", "30", "-subj", &subject],
    ]
    .concat();
    if !openssl(folder, &arguments) {
        return false;
    }
    for (who, extension) in [
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("station", "extendedKeyUsage=clientAuth"),
    ] {
        let [key_of, request, signed, extra] =
            ["key", "csr", "crt", "ext"].map(|ending| format!("{name}-{who}.{ending}"));
        write(&folder.join(&extra), extension.as_bytes());
        let subject = format!("/CN={who}");
        let arguments =
            [&["req"][..], &curve, &["-keyout", &key_of, "-out", &request, "-subj", &subject]]
                .concat();
        openssl(folder, &arguments);
        openssl(
            folder,
            &[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                &cert,
                "-CAkey",
                &key,
                "-CAcreateserial",
                "-days",
                "30",
                "-extfile",
                &extra,
                "-out",
                &signed,
            ],
        );
    }
    true
}

/// Mosquitto that takes only stations of the authority `ours`.
fn start() -> Option<Broker> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempdir().expect("a directory");
    let whole = Path::new(MOSQUITTO).exists()
        && authority(folder.path(), "ours")
        && authority(folder.path(), "other");
    if !whole {
        assert!(std::env::var_os("CI").is_none(), "mosquitto or openssl is not installed");
        eprintln!("skipped: needs mosquitto and openssl");
        return None;
    }
    let port = free_port().expect("a port");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let text = format!(
        "listener {port} 127.0.0.1\nuser root\nallow_anonymous true\nlog_dest stderr\n\
         cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
        at("ours.crt"),
        at("ours-server.crt"),
        at("ours-server.key")
    );
    let path = folder.path().join("mosquitto.conf");
    write(&path, text.as_bytes());
    let arguments = ["-c".as_ref(), path.as_os_str()];
    let running = Program::start("mosquitto", Path::new(MOSQUITTO), arguments, folder.path());
    let running = running.expect("starts");
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "{}", running.log_tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(Broker { folder, port, _running: running })
}

impl Broker {
    fn settings(&self, host: &str, authority: &str, station: Option<&str>) -> config::Mqtt {
        let at = |name: String| -> PathBuf { self.folder.path().join(name) };
        config::Mqtt {
            url: format!("mqtts://{host}:{}", self.port),
            ca: Some(at(format!("{authority}.crt"))),
            cert: station.map(|name| at(format!("{name}-station.crt"))),
            key: station.map(|name| at(format!("{name}-station.key"))),
            ..config::Mqtt::default()
        }
    }

    /// Whether a station with these settings is connected and stays so, and what it is told.
    async fn try_with(&self, settings: &config::Mqtt) -> Result<(), String> {
        let options = options(settings, "station", "status", None).map_err(|e| e.to_string())?;
        let mut connection = Connection::open(options);
        let patience = Duration::from_secs(10);
        match tokio::time::timeout(patience, connection.next()).await.expect("an answer") {
            Happening::Connected { .. } => {
                // TLS 1.3 tells a refused client so only after its handshake.
                let notice = connection.publish("hello", b"1".to_vec(), false).await?;
                let done = tokio::time::timeout(patience, notice.wait_completion_async()).await;
                done.map_err(|_| "no answer".to_owned())?.map(drop).map_err(|e| e.to_string())
            }
            Happening::Lost(problem) => Err(problem),
            other => Err(format!("{other:?}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_station_of_the_authority_gets_in_and_only_to_its_own_broker() {
    let Some(broker) = start() else { return };
    for host in ["localhost", "127.0.0.1"] {
        let settings = broker.settings(host, "ours", Some("ours"));
        assert_eq!(broker.try_with(&settings).await, Ok(()), "{host}");
    }
    let without = broker.settings("localhost", "ours", None);
    assert!(broker.try_with(&without).await.is_err(), "no certificate");
    let stranger = broker.settings("localhost", "ours", Some("other"));
    assert!(broker.try_with(&stranger).await.is_err(), "a stranger's certificate");
    let deceived = broker.settings("localhost", "other", Some("ours"));
    let problem = broker.try_with(&deceived).await.expect_err("a broker of another authority");
    assert!(problem.to_lowercase().contains("certificate"), "{problem}");
    let plain = config::Mqtt {
        url: format!("mqtt://localhost:{}", broker.port),
        ..config::Mqtt::default()
    };
    assert!(broker.try_with(&plain).await.is_err(), "no TLS");
}
