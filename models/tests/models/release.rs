//! `ecosight-models release`, as a maker runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use ecosight_models::bundle::{BundleFiles, MANIFEST_FILE};
use ecosight_models::{Builtin, durable, release};
use ecosight_shared::release::PublicKey;
use tempfile::{TempDir, tempdir};

/// A maker's folder: a key and the compact bundle.
struct Maker {
    folder: TempDir,
    public: String,
}

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ecosight-models")).args(arguments).output().expect("runs")
}

fn said(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

impl Maker {
    fn new() -> Self {
        let folder = tempdir().expect("a folder");
        let files = BundleFiles::builtin(Builtin::Compact).expect("shipped");
        let entries = files.bundle.manifest.files.iter().map(|entry| entry.name.as_str());
        let all =
            entries.chain([MANIFEST_FILE]).map(|name| (name, files.file(name).expect("there")));
        durable::write_folder(&folder.path().join("bundle"), all).expect("written");
        let key = folder.path().join("release.key").display().to_string();
        let (done, public, told) = said(&tool(&["release", "keygen", "--out", &key]));
        assert!(done, "{told}");
        Self { folder, public: public.trim().to_owned() }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Signs with `extra` beside what is needed, into `out`.
    fn sign(&self, out: &str, extra: &[&str]) -> Output {
        let (bundle, key, out) = (self.at("bundle"), self.at("release.key"), self.at(out));
        let needed = ["release", "sign", "--bundle", &bundle, "--key", &key, "--out", &out];
        tool(&[&needed, extra].concat())
    }
}

const TERMS: [&str; 4] = ["--counter", "7", "--expires", "2100-01-31"];

#[test]
fn a_key_is_its_owners_alone_and_is_never_overwritten() {
    let maker = Maker::new();
    let key = maker.folder.path().join("release.key");
    assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o777, 0o600);
    maker.public.parse::<PublicKey>().expect("a public key");
    let secret = fs::read_to_string(&key).expect("there");
    let (done, out, told) = said(&tool(&["release", "keygen", "--out", &maker.at("release.key")]));
    assert!(!done && out.is_empty() && told.contains("is not overwritten"), "{told}");
    assert_eq!(fs::read_to_string(&key).expect("there"), secret);
    // Nothing that the tool says has the secret in it.
    let seed = secret.lines().last().expect("a line").to_owned();
    let signed = said(&maker.sign("a.release", &TERMS));
    let shown = said(&tool(&["release", "show", &maker.at("a.release")]));
    for (_, out, told) in [signed, shown] {
        assert!(!out.contains(&seed) && !told.contains(&seed));
    }
    // A folder gets a key of its own.
    let dir = maker.folder.path().join("keys");
    fs::create_dir(&dir).expect("made");
    assert!(said(&tool(&["release", "keygen", "--out", &maker.at("keys")])).0);
    assert!(dir.join("release.key").is_file());
    // A key that others could read signs nothing.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("set");
    let (done, _, told) = said(&maker.sign("b.release", &TERMS));
    assert!(!done && told.contains("other users may read this key"), "{told}");
}

#[test]
fn what_is_signed_is_verified_and_a_changed_byte_is_not() {
    let maker = Maker::new();
    let device = "018f4d7e-1122-7344-8566-778899aabbcc".to_owned();
    let extra = ["--site", "letaba", "--device", &device, "--version", "0.2.0"];
    let (done, out, told) = said(&maker.sign("a.release", &[&TERMS[..], &extra].concat()));
    assert!(done, "{told}");
    for part in ["compact-0.2.0, counter 7", "letaba", &device, "2100-01-31T23:59:59Z"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let path = maker.at("a.release");
    let verify =
        |path: &str, key: &str| said(&tool(&["release", "verify", path, "--trusted", key]));
    let (done, out, _) = verify(&path, &maker.public);
    assert!(done && out.contains("whole, and signed by the trusted key"), "{out}");
    let (_, other, _) = said(&tool(&["release", "keygen", "--out", &maker.at("other.key")]));
    let (done, _, told) = verify(&path, other.trim());
    assert!(!done && told.contains("no key that is trusted"), "{told}");

    let whole = fs::read(&path).expect("there");
    let changed = maker.at("changed.release");
    let refused = |bytes: &[u8]| {
        durable::write_file(Path::new(&changed), bytes).expect("written");
        let trusted = [maker.public.parse().expect("a key")];
        release::check(Path::new(&changed), &trusted).map(drop).expect_err("changed").to_string()
    };
    // Every hundredth byte: each is in the head, the manifest, the signature or a file.
    for place in (0..whole.len()).step_by(whole.len() / 100) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        refused(&bytes);
    }
    assert!(refused(&whole[..whole.len() - 1]).contains("ends early"));
    assert!(refused(&[&whole[..], b"x"].concat()).contains("something follows the last file"));
}

#[test]
fn two_keys_may_sign_and_a_way_back_names_what_it_leads_from() {
    let maker = Maker::new();
    let (_, next, _) = said(&tool(&["release", "keygen", "--out", &maker.at("next.key")]));
    let both = ["--key", &maker.at("next.key")];
    assert!(said(&maker.sign("a.release", &[&TERMS[..], &both].concat())).0);
    for key in [next.trim(), &maker.public] {
        let verified =
            said(&tool(&["release", "verify", &maker.at("a.release"), "--trusted", key]));
        assert!(verified.0, "{}", verified.2);
    }
    let back = ["--counter", "6", "--expires", "2100-01-31"];
    for (out, from) in
        [("b.release", maker.at("a.release")), ("c.release", "compact:0.2.0:7".into())]
    {
        let extra = ["--replaces", &from];
        let (done, out, told) = said(&maker.sign(out, &[&back[..], &extra].concat()));
        assert!(done && out.contains("way back   from compact-0.2.0, counter 7"), "{out}{told}");
    }
}

#[test]
fn what_no_station_would_take_is_not_signed() {
    let maker = Maker::new();
    assert!(said(&maker.sign("a.release", &TERMS)).0);
    let not_a_key = maker.at("bundle/manifest.json");
    for (extra, why) in [
        (&["--counter", "0", "--expires", "2100-01-31"][..], "counter"),
        (&["--counter", "7", "--expires", "2001-01-31"], "that time is over"),
        (&[&TERMS[..], &["--version", "9.9.9"]].concat(), "has version 0.2.0, not 9.9.9"),
        (&[&TERMS[..], &["--minimum-agent", "new"]].concat(), "such as 0.1.0"),
        (&[&TERMS[..], &["--replaces", "nothing"]].concat(), "no NAME:VERSION:COUNTER"),
        (&[&TERMS[..], &["--key", &maker.at("release.key")]].concat(), "is named twice"),
        (&[&TERMS[..], &["--key", &not_a_key]].concat(), "other users may read"),
    ] {
        let (done, _, told) = said(&maker.sign("b.release", extra));
        assert!(!done && told.contains(why), "{why}: {told}");
        assert!(!maker.folder.path().join("b.release").exists(), "{why}");
    }
    let (done, _, told) = said(&maker.sign("a.release", &TERMS));
    assert!(!done && told.contains("there already"), "{told}");
    // A bundle that no station could prove.
    let path = maker.folder.path().join("bundle/manifest.json");
    let text = fs::read_to_string(&path).expect("there");
    let mut manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    manifest["golden"] = serde_json::json!([]);
    durable::write_file(&path, manifest.to_string().as_bytes()).expect("written");
    let (done, _, told) = said(&maker.sign("b.release", &TERMS));
    assert!(!done && told.contains("no golden sounds"), "{told}");
}
