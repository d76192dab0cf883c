//! Fetching YAMNet: from whichever address has it, and what is said when none has.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use ecosight_models::bundle::hex;
use ecosight_models::yamnet::download::{ADDRESSES, DownloadError, download};
use sha2::{Digest, Sha256};

/// A server on this machine that answers each path with a status and a body, and any other with 404.
fn serve(answers: Vec<(&'static str, u16, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let path = request.split(' ').nth(1).unwrap();
            let answer = answers.iter().find(|(known, ..)| *known == path);
            let (status, body) = answer.map_or((404, &[][..]), |(_, status, body)| (*status, body));
            let length = body.len();
            let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n");
            stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
            stream.write_all(body).unwrap();
        }
    });
    address
}

fn fetch(addresses: &[&str], sha256: &str) -> (Result<Vec<u8>, DownloadError>, Vec<String>) {
    // Fails only where another test of this process has set it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut told = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fetched = download(addresses, sha256, |line| told.push(line.to_owned()));
    (runtime.block_on(fetched), told)
}

/// The file as its publisher hands it out.
fn packed(file: &[u8]) -> Vec<u8> {
    let packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(packer);
    let mut header = tar::Header::new_gnu();
    header.set_size(file.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "1.tflite", file).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

#[test]
fn the_file_comes_from_the_first_address_that_has_it() {
    let file = b"xxxxTFL3 and what follows".to_vec();
    let sha256 = hex(&Sha256::digest(&file));
    let answers =
        vec![("/other", 200, b"xxxxTFL3 of another network".to_vec()), ("/it", 200, packed(&file))];
    let server = serve(answers);
    let addresses = ["/gone", "/other", "/it", "/never"].map(|path| format!("{server}{path}"));
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (fetched, told) = fetch(&addresses, &sha256);
    assert_eq!(fetched.unwrap(), file);
    let expected: Vec<String> =
        addresses[..3].iter().map(|address| format!("downloading {address}")).collect();
    assert_eq!(told, expected, "one after the other, and none after the right one");
}

#[test]
fn when_no_address_has_it_each_is_named_with_what_to_do_by_hand() {
    let other = b"xxxxTFL3 of another network".to_vec();
    let sha256 = hex(&Sha256::digest(b"the right one"));
    let server = serve(vec![("/other", 200, other.clone())]);
    // Nobody listens there: the port was free a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses =
        [format!("http://{closed}/it"), format!("{server}/gone"), format!("{server}/other")];
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let (fetched, _) = fetch(&addresses, &sha256);
    let said = fetched.unwrap_err().to_string();
    let found = hex(&Sha256::digest(&other));
    let by_hand = ["by hand", ADDRESSES[0], ADDRESSES[1], "ecosight-models import-yamnet FILE"];
    for part in [&addresses[..], &by_hand, &["refused", "404", &found, &sha256]].concat() {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    assert!(said.ends_with(&format!("SHA-256 is {sha256}.")), "{said}");
}
