//! Spans of requests, as a collector of OpenTelemetry gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use serde_json::Value;

use crate::predict::hum;
use crate::program::Server;

/// A collector that takes whatever comes; gives its address and what came.
fn collector() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (came, coming) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, came) = (stream.unwrap(), came.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let (mut head, mut length) = (String::new(), 0);
                    while !head.ends_with("\r\n\r\n") {
                        let before = head.len();
                        if reader.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                        let line = head[before..].to_ascii_lowercase();
                        if let Some(value) = line.strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    stream.write_all(answer).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    if came.send((path, serde_json::from_slice(&body).unwrap())).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, coming)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_a_span_of_each_prediction() {
    let (endpoint, coming) = collector();
    let config = format!("[otlp]\nendpoint = \"{endpoint}\"\n");
    let server = Server::start_with_config(&config, &[]).await;
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let form = Form::new().part("file", Part::bytes(hum()).file_name("hum.wav"));
    let request = server.client().post(server.url("/predict")).multipart(form);
    let request = request.header("traceparent", format!("00-{trace}-{caller}-01"));
    assert_eq!(request.send().await.unwrap().status().as_u16(), 200, "{}", server.log());
    let mut spans: Vec<Value> = Vec::new();
    let of_trace = |spans: &[Value], name: &str| {
        spans.iter().find(|s| s["traceId"] == trace && s["name"] == name).cloned()
    };
    while of_trace(&spans, "POST /predict").is_none() {
        let (path, body) = coming.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(path, "/v1/traces");
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "ecosight-cloud");
        spans.extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().clone());
    }
    let request = of_trace(&spans, "POST /predict").unwrap();
    assert_eq!((&request["parentSpanId"], &request["kind"]), (&caller.into(), &2.into()));
    let status = serde_json::json!({
        "key": "http.response.status_code", "value": {"intValue": "200"},
    });
    assert!(request["attributes"].as_array().unwrap().contains(&status), "{request}");
    let nanos = |span: &Value, field: &str| span[field].as_str().unwrap().parse::<u64>().unwrap();
    let took = |span: &Value| nanos(span, "endTimeUnixNano") - nanos(span, "startTimeUnixNano");
    let inference = of_trace(&spans, "inference").unwrap();
    assert_eq!(inference["parentSpanId"], request["spanId"]);
    assert!(took(&inference) > 0 && took(&inference) <= took(&request), "{inference} {request}");
}
