//! Recordings: uploaded in parts, verified, downloaded in ranges.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RANGE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::program::Server;
use crate::station::device;

const EVENT: &str = "019cab00-0000-7000-8000-0000000000aa";

fn sound(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

fn declaration(bytes: &[u8]) -> Value {
    let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "event_id": EVENT, "device_id": device(1).to_string(), "sha256": sha256,
        "bytes": bytes.len(), "duration_ms": 8_000, "format": "flac",
    })
}

async fn declare(server: &Server, body: &Value) -> (StatusCode, Value) {
    let response =
        server.client().post(server.url("/api/v1/clips")).json(body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

fn data(server: &Server) -> String {
    server.url(&format!("/api/v1/clips/{EVENT}/data"))
}

async fn put(server: &Server, bytes: &[u8], first: usize, total: usize) -> reqwest::Response {
    let range = format!("bytes {first}-{}/{total}", first + bytes.len() - 1);
    let request = server.client().put(data(server)).header(CONTENT_RANGE, range);
    request.body(bytes.to_vec()).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_was_and_is_stored_when_whole() {
    let mut server = Server::start(&[]).await;
    let sound = sound(300_000);
    let total = sound.len();
    let (status, answer) = declare(&server, &declaration(&sound)).await;
    assert_eq!((status.as_u16(), &answer["offset"]), (201, &0.into()));
    assert_eq!((&answer["id"], &answer["status"]), (&EVENT.into(), &"uploading".into()));
    let early = server.client().get(data(&server)).send().await.unwrap();
    assert_eq!(early.status().as_u16(), 404, "a recording that is not whole was given out");

    let answer: Value = put(&server, &sound[..100_000], 0, total).await.json().await.unwrap();
    assert_eq!((&answer["offset"], &answer["status"]), (&100_000.into(), &"uploading".into()));
    let wrong = put(&server, &sound[..10], 0, total).await;
    assert_eq!(wrong.status().as_u16(), 409);
    assert_eq!(wrong.headers()["upload-offset"], "100000");
    assert_eq!(put(&server, &sound[..10], 0, total + 1).await.status().as_u16(), 400);

    server.kill_9();
    server.run().await;
    let head = server.client().head(data(&server)).send().await.unwrap();
    assert_eq!(head.headers()["upload-offset"], "100000");
    assert_eq!(head.headers()["upload-complete"], "?0");
    assert_eq!(declare(&server, &declaration(&sound)).await.1["offset"], 100_000);
    let answer: Value = put(&server, &sound[100_000..], 100_000, total).await.json().await.unwrap();
    assert_eq!((&answer["offset"], &answer["status"]), (&300_000.into(), &"stored".into()));
    let (status, answer) = declare(&server, &declaration(&sound)).await;
    assert_eq!((status.as_u16(), &answer["status"]), (200, &"stored".into()));

    let whole = server.client().get(data(&server)).send().await.unwrap();
    assert_eq!(whole.headers()[CONTENT_TYPE], "audio/flac");
    let tag = whole.headers()[ETAG].clone();
    assert_eq!(whole.bytes().await.unwrap(), sound);
    let part =
        server.client().get(data(&server)).header(RANGE, "bytes=10-19").send().await.unwrap();
    assert_eq!(part.status().as_u16(), 206);
    assert_eq!(part.headers()[CONTENT_RANGE], "bytes 10-19/300000");
    assert_eq!(part.bytes().await.unwrap(), sound[10..20]);
    let beyond = server.client().get(data(&server)).header(RANGE, "bytes=300000-");
    assert_eq!(beyond.send().await.unwrap().status().as_u16(), 416);
    let known = server.client().get(data(&server)).header(IF_NONE_MATCH, tag).send().await.unwrap();
    assert_eq!(known.status().as_u16(), 304);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_upload_begins_again() {
    let server = Server::start(&[]).await;
    let sound = sound(5_000);
    declare(&server, &declaration(&sound)).await;
    let mut damaged = sound.clone();
    damaged[2_500] ^= 1;
    let refused = put(&server, &damaged, 0, 5_000).await;
    assert_eq!(refused.status().as_u16(), 422);
    let problem: Value = refused.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("SHA-256"), "{problem}");
    let head = server.client().head(data(&server)).send().await.unwrap();
    assert_eq!(head.headers()["upload-offset"], "0");
    let answer: Value = put(&server, &sound, 0, 5_000).await.json().await.unwrap();
    assert_eq!(answer["status"], "stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn declarations_that_make_no_sense_are_refused() {
    let server = Server::start(&[]).await;
    let good = declaration(&sound(100));
    declare(&server, &good).await;
    let cases: [(&str, Value, u16); 8] = [
        ("bytes", 0.into(), 400),
        ("bytes", (17 << 20).into(), 413),
        ("bytes", (-1).into(), 400),
        ("sha256", "00".into(), 400),
        ("sha256", "00".repeat(32).into(), 409),
        ("device_id", device(2).to_string().into(), 409),
        ("format", "exe".into(), 400),
        ("event_id", "../../etc/passwd".into(), 400),
    ];
    for (field, value, status) in cases {
        let mut body = good.clone();
        body[field] = value;
        let (found, problem) = declare(&server, &body).await;
        assert_eq!(found.as_u16(), status, "{field}: {problem}");
    }
    let whole = server.client().put(data(&server)).body(sound(101)).send().await.unwrap();
    assert_eq!(whole.status().as_u16(), 400, "more bytes than were declared");
}
