//! The station's own page.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ecosight_loadtest::free_port;
use serde_json::Value;

use crate::station::{Place, terminate};

struct Visited {
    head: String,
    body: String,
}

fn ask(port: u16, request: &str) -> Visited {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    // One visitor too many is let go before it has spoken.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Visited { head: head.to_owned(), body: body.to_owned() }
}

fn get(port: u16, target: &str) -> Visited {
    ask(port, &format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"))
}

#[test]
fn it_shows_what_is_heard_and_gives_nothing_else_away() {
    let source = "kind = \"file\"\npath = \"NIGHT\"\nspeed = \"max\"\nat_end = \"stay\"";
    let place = Place::new(source, "mqtt://127.0.0.1:1", "");
    let port = free_port().expect("a port");
    let config = std::fs::read_to_string(&place.config).expect("there");
    let config = config.replace("listen = \"\"", &format!("listen = \"127.0.0.1:{port}\""));
    crate::station::write(&place.config, config.as_bytes());
    let child = place.start();
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", place.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let page = get(port, "/");
    assert!(page.head.starts_with("HTTP/1.1 200 OK"), "{}", page.head);
    assert!(page.head.contains("Content-Security-Policy: default-src 'none'"), "{}", page.head);
    assert!(page.body.contains("<title>EcoSight station</title>"));
    let loaded = page.body.split(['"', '\'']).filter(|part| part.contains("//"));
    assert_eq!(loaded.count(), 0, "nothing is loaded from elsewhere");
    assert!(get(port, "/page.js").head.contains("text/javascript"));
    assert!(get(port, "/page.css").head.contains("text/css"));

    let status = loop {
        let status: Value =
            serde_json::from_str(&get(port, "/status.json?column=0").body).expect("JSON");
        // An event is shown before its alert is on the disk.
        let events = status["live"]["events"].as_array().map(Vec::len);
        if events == Some(12) && status["queue"]["alerts"] == 12 {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{status}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status["queue"]["alerts"], 12);
    assert_eq!(status["connected"], false);
    assert_eq!(status["health"]["speech_redaction"], "off");
    assert_eq!(status["live"]["bands"], 64);
    let columns = status["live"]["columns"].as_array().expect("columns");
    assert!(
        !columns.is_empty() && columns.iter().all(|c| c.as_str().is_some_and(|c| c.len() == 128))
    );
    let newest = status["live"]["column"].as_u64().expect("a number");
    let again = get(port, &format!("/status.json?column={newest}"));
    let again: Value = serde_json::from_str(&again.body).expect("JSON");
    let came = again["live"]["column"].as_u64().expect("a number") - newest;
    let columns = again["live"]["columns"].as_array().map(Vec::len);
    assert_eq!(columns, Some(came as usize), "only what is new");

    for (request, code) in [
        ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "405"),
        ("GET /../outbox.db HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nHost: evil.example.org\r\n\r\n", "421"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = ask(port, request);
        assert!(answer.head.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {}", answer.head);
    }
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(20_000));
    assert_eq!(ask(port, &endless).head, "", "let go without an answer");
    // Visitors that say nothing keep nobody else out for long.
    let idle: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connects")).collect();
    let waited = Instant::now();
    while !get(port, "/").head.starts_with("HTTP/1.1 200") {
        assert!(waited.elapsed() < Duration::from_secs(15), "kept out");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(idle);
    terminate(&child);
    place.ends_well(child, Duration::from_secs(11));
}

#[test]
fn a_port_that_is_taken_costs_the_page_and_nothing_else() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("bound").port();
    let place = Place::new("kind = \"file\"\npath = \"NIGHT\"", "mqtt://127.0.0.1:1", "");
    let config = std::fs::read_to_string(&place.config).expect("there");
    let config = config.replace("listen = \"\"", &format!("listen = \"127.0.0.1:{port}\""));
    crate::station::write(&place.config, config.as_bytes());
    let child = place.start();
    let started = Instant::now();
    while !place.log().contains("is page.listen taken") {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", place.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    terminate(&child);
    place.ends_well(child, Duration::from_secs(11));
}
