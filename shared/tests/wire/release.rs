//! A release is installed only if everything about it is right; each test breaks exactly one thing.

use ecosight_shared::json::{DesiredDocument, DesiredModel};
use ecosight_shared::release::{
    DOMAIN, Highest, KeyError, MAX_COUNTER_STEP, MAX_FILE_BYTES, MAX_FILES, MAX_MANIFEST_LEN,
    Manifest, Memory, PublicKey, Refusal, ReleaseFile, ReleaseRef, SecretKey, Signature,
    SignedManifest, Station, classes_sha256, parse_version, verify,
};
use ecosight_shared::{DeviceId, Slug};
use proptest::prelude::*;
use uuid::Uuid;

const DEVICE: DeviceId = DeviceId(Uuid::from_u128(0x018f_4d7e_1122_7344_8566_7788_99aa_bbcc));
const NOW: i64 = 1_790_000_000;

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

fn next_key() -> SecretKey {
    SecretKey::from_seed(&[8; 32])
}

fn manifest() -> Manifest {
    let file = |path: &str, fill| ReleaseFile { path: path.into(), bytes: 100, sha256: [fill; 32] };
    Manifest {
        format: 1,
        name: "ear".into(),
        version: "1.2.0".into(),
        counter: 42,
        minimum_agent: "0.1.0".into(),
        expires_unix_s: NOW + 1,
        devices: vec![DEVICE],
        site: Some("gola".parse().unwrap()),
        replaces: None,
        classes_sha256: classes_sha256(&["gun_shot", "background"]),
        files: vec![file("manifest.json", 1), file("head.onnx", 2)],
    }
}

fn signed(manifest: &Manifest) -> SignedManifest {
    SignedManifest::sign(manifest, &[&key()]).unwrap()
}

/// A verification in which nothing is wrong.
struct Case {
    signed: SignedManifest,
    trusted: Vec<PublicKey>,
    device: DeviceId,
    site: &'static str,
    agent: &'static str,
    now: Option<i64>,
    highest: Option<Highest>,
    active: Option<ReleaseRef>,
    blocked: Vec<[u8; 32]>,
}

impl Case {
    fn of(manifest: &Manifest) -> Self {
        Self {
            signed: signed(manifest),
            trusted: vec![key().public(), next_key().public()],
            device: DEVICE,
            site: "gola",
            agent: "0.1.0",
            now: Some(NOW),
            highest: Some(Highest { counter: 41, release: [9; 32] }),
            active: Some(ReleaseRef { name: "ear".into(), version: "1.1.0".into(), counter: 41 }),
            blocked: vec![[3; 32]],
        }
    }

    fn good() -> Self {
        Self::of(&manifest())
    }

    fn verdict(&self) -> Result<(), Refusal> {
        let station = Station {
            trusted: &self.trusted,
            device: self.device,
            site: self.site,
            agent_version: self.agent,
            now_unix_s: self.now,
        };
        let memory =
            Memory { highest: self.highest, active: self.active.as_ref(), blocked: &self.blocked };
        verify(&self.signed, &station, &memory).map(|verified| {
            assert_eq!(verified.id, self.signed.id());
        })
    }

    fn code(&self) -> &'static str {
        self.verdict().map_or_else(|refusal| refusal.code(), |()| "accepted")
    }
}

#[test]
fn a_release_with_nothing_wrong_is_accepted() {
    assert_eq!(Case::good().verdict(), Ok(()));
}

#[test]
fn what_is_for_everybody_is_for_this_station() {
    let manifest = Manifest { devices: Vec::new(), site: None, ..manifest() };
    assert_eq!(Case::of(&manifest).verdict(), Ok(()));
}

#[test]
fn a_key_that_is_not_trusted_signs_for_nobody() {
    let mut case = Case::good();
    case.trusted = vec![next_key().public()];
    assert_eq!(case.verdict(), Err(Refusal::WrongKey));
}

#[test]
fn nothing_is_accepted_without_signature_or_without_keys() {
    let mut case = Case::good();
    case.signed.signatures.clear();
    assert_eq!(case.verdict(), Err(Refusal::Unsigned));
    let mut case = Case::good();
    case.trusted.clear();
    assert_eq!(case.verdict(), Err(Refusal::NoTrustedKey));
}

#[test]
fn keys_rotate_by_signing_with_both() {
    let both = SignedManifest::sign(&manifest(), &[&key(), &next_key()]).unwrap();
    let new = SignedManifest::sign(&manifest(), &[&next_key()]).unwrap();
    // Before, between and after: stations trust the old key, both, the new one.
    let trusts = [
        (vec![key().public()], true, false),
        (vec![key().public(), next_key().public()], true, true),
        (vec![next_key().public()], true, true),
    ];
    for (trusted, takes_both, takes_new) in trusts {
        for (signed, takes) in [(&both, takes_both), (&new, takes_new)] {
            let case = Case { signed: signed.clone(), trusted: trusted.clone(), ..Case::good() };
            assert_eq!(case.code(), if takes { "accepted" } else { "wrong_key" });
        }
    }
    // The key that was given up signs for nobody any more.
    let case = Case { trusted: vec![next_key().public()], ..Case::good() };
    assert_eq!(case.code(), "wrong_key");
}

#[test]
fn a_signature_of_something_else_is_none() {
    let mut case = Case::good();
    let bytes = case.signed.manifest.clone();
    // The same key over the same bytes without the domain, as another protocol would sign them.
    let undomained = SecretKey::from_seed(&[7; 32]).sign(&bytes[DOMAIN.len()..]);
    case.signed.signatures = vec![undomained];
    assert_eq!(case.verdict(), Err(Refusal::BadSignature));
}

#[test]
fn the_id_of_a_key_proves_nothing() {
    let mut case = Case::good();
    let forged = next_key().sign(&case.signed.manifest).bytes;
    case.signed.signatures = vec![Signature { key: key().public().id(), bytes: forged }];
    assert_eq!(case.verdict(), Err(Refusal::BadSignature));
}

#[test]
fn what_has_expired_is_refused_at_that_second() {
    let mut case = Case::good();
    case.now = Some(NOW + 1);
    assert_eq!(case.verdict(), Err(Refusal::Expired { at: NOW + 1 }));
    case.now = None;
    assert_eq!(case.verdict(), Err(Refusal::ClockUnset));
}

#[test]
fn an_older_release_is_refused() {
    let mut case = Case::good();
    case.highest = Some(Highest { counter: 43, release: [9; 32] });
    assert_eq!(case.verdict(), Err(Refusal::Replayed { counter: 42, highest: 43 }));
}

#[test]
fn another_release_with_the_same_counter_is_refused_and_the_same_comes_again() {
    let mut case = Case::good();
    case.highest = Some(Highest { counter: 42, release: [9; 32] });
    assert_eq!(case.verdict(), Err(Refusal::Replayed { counter: 42, highest: 42 }));
    case.highest = Some(Highest { counter: 42, release: case.signed.id() });
    assert_eq!(case.verdict(), Ok(()));
}

#[test]
fn a_signed_way_back_leads_from_the_named_release_only() {
    let from = ReleaseRef { name: "ear".into(), version: "2.0.0".into(), counter: 50 };
    let back = Manifest { replaces: Some(from.clone()), ..manifest() };
    let mut case = Case::of(&back);
    case.highest = Some(Highest { counter: 50, release: [9; 32] });
    case.active = Some(from.clone());
    assert_eq!(case.verdict(), Ok(()));
    case.active = Some(ReleaseRef { counter: 49, ..from });
    assert_eq!(case.code(), "replayed");
    case.active = None;
    assert_eq!(case.code(), "replayed");
    // No release to come from, and none named: nothing matches nothing.
    let mut case = Case::good();
    case.highest = Some(Highest { counter: 50, release: [9; 32] });
    case.active = None;
    assert_eq!(case.code(), "replayed");
}

#[test]
fn a_counter_may_not_use_up_all_that_come_after() {
    let at = |counter| Case::of(&Manifest { counter, ..manifest() }).code();
    assert_eq!(at(41 + MAX_COUNTER_STEP), "accepted");
    assert_eq!(at(42 + MAX_COUNTER_STEP), "fast_forward");
    assert_eq!(at(i64::MAX as u64), "fast_forward");
}

#[test]
fn a_release_for_others_is_refused() {
    let mut case = Case::good();
    case.device = DeviceId(Uuid::from_u128(1));
    assert_eq!(case.verdict(), Err(Refusal::OtherDevice));
    let mut case = Case::good();
    case.site = "taita";
    assert_eq!(case.verdict(), Err(Refusal::OtherSite { site: "gola".into() }));
}

#[test]
fn an_agent_that_is_too_old_says_so() {
    let manifest = Manifest { minimum_agent: "0.2.0".into(), ..manifest() };
    for (agent, code) in [
        ("0.1.9", "agent_too_old"),
        ("0.2.0-rc1", "agent_too_old"),
        ("0.2.0", "accepted"),
        ("0.10.0", "accepted"),
        ("1.0.0+abc", "accepted"),
        ("unknown", "agent_too_old"),
    ] {
        assert_eq!(Case { agent, ..Case::of(&manifest) }.code(), code, "{agent}");
    }
}

#[test]
fn a_bundle_that_failed_here_is_refused_under_any_number() {
    let mut case = Case::good();
    case.blocked.push([1; 32]);
    assert_eq!(case.verdict(), Err(Refusal::Blocked));
}

#[test]
fn a_manifest_that_nobody_would_accept_is_not_signed() {
    let file = |path: &str| ReleaseFile { path: path.into(), bytes: 1, sha256: [0; 32] };
    let with =
        |path: &str| Manifest { files: vec![file("manifest.json"), file(path)], ..manifest() };
    let mut cases: Vec<(Manifest, &str)> = vec![
        (Manifest { format: 2, ..manifest() }, "unknown_format"),
        (Manifest { name: "../ear".into(), ..manifest() }, "malformed"),
        (Manifest { version: "1.0/0".into(), ..manifest() }, "malformed"),
        (Manifest { counter: 0, ..manifest() }, "malformed"),
        (Manifest { counter: u64::MAX, ..manifest() }, "malformed"),
        (Manifest { minimum_agent: "new".into(), ..manifest() }, "malformed"),
        (Manifest { files: vec![file("head.onnx")], ..manifest() }, "malformed"),
        (with("manifest.json"), "malformed"),
    ];
    for path in ["..", ".", ".x", "/etc/passwd", "a/b", "../x", "a\\b", "", "ä", "a\0", "a b"] {
        cases.push((with(path), "malformed"));
    }
    let mut many = manifest();
    many.files.extend((0..MAX_FILES).map(|i| file(&format!("f{i}"))));
    cases.push((many, "too_large"));
    let mut long = manifest();
    long.files[1].bytes = MAX_FILE_BYTES + 1;
    cases.push((long, "too_large"));
    let mut total = manifest();
    total
        .files
        .extend((0..2).map(|i| ReleaseFile { bytes: MAX_FILE_BYTES, ..file(&format!("f{i}")) }));
    cases.push((total, "too_large"));
    let devices = vec![DEVICE; MAX_MANIFEST_LEN / 16];
    cases.push((Manifest { devices, ..manifest() }, "too_large"));
    for (manifest, code) in cases {
        let refusal = SignedManifest::sign(&manifest, &[&key()]).unwrap_err();
        assert_eq!(refusal.code(), code, "{refusal}");
        // A signer that does not look is not believed either.
        let bytes = postcard::to_stdvec(&manifest).unwrap();
        let signatures = vec![key().sign(&bytes)];
        let case = Case { signed: SignedManifest { manifest: bytes, signatures }, ..Case::good() };
        assert_eq!(case.code(), code);
    }
}

#[test]
fn what_follows_a_manifest_is_refused() {
    let mut bytes = manifest().encode().unwrap();
    bytes.push(0);
    let signatures = vec![key().sign(&bytes)];
    let case = Case { signed: SignedManifest { manifest: bytes, signatures }, ..Case::good() };
    assert_eq!(case.code(), "malformed");
}

#[test]
fn json_carries_it_unchanged_and_within_limits() {
    let signed = signed(&manifest());
    let document = signed.document("ear-1.2.0");
    assert_eq!(SignedManifest::from_document(&document), Ok(signed));
    let mut long = document.clone();
    long.manifest = "A".repeat(MAX_MANIFEST_LEN * 4 / 3 + 8);
    assert_eq!(SignedManifest::from_document(&long).unwrap_err().code(), "too_large");
    let mut many = document.clone();
    many.signatures = vec![document.signatures[0].clone(); 5];
    assert_eq!(SignedManifest::from_document(&many).unwrap_err().code(), "too_large");
    for text in ["", "AAAA", "!"] {
        let mut short = document.clone();
        short.signatures[0].signature = text.into();
        assert_eq!(SignedManifest::from_document(&short).unwrap_err().code(), "malformed");
    }
    // What a station is sent.
    let model =
        DesiredModel { signed: document, files: "/api/v1/releases/1/files".into(), trial_s: 600 };
    let desired = DesiredDocument { v: 1, model: Some(model), time: "2026-11-25T00:00:00Z".into() };
    let json = serde_json::to_value(&desired).unwrap();
    assert_eq!(json["model"]["release"], "ear-1.2.0");
    assert_eq!(json["model"]["signatures"][0]["key"], key().public().id().to_string());
    assert_eq!(serde_json::from_value::<DesiredDocument>(json).unwrap(), desired);
}

#[test]
fn keys_are_written_and_read() {
    let key = key();
    assert_eq!(key.public().to_string().parse::<PublicKey>(), Ok(key.public()));
    let again = SecretKey::from_text(&key.to_text()).unwrap();
    assert_eq!(again.public(), key.public());
    // The two are not taken for each other, and no key is printed by accident.
    assert_eq!(SecretKey::from_text(&key.public().to_string()).unwrap_err(), KeyError::NotSecret);
    assert_eq!(key.to_text().parse::<PublicKey>().unwrap_err(), KeyError::NotPublic);
    assert!(!format!("{key:?}").contains("BwcHBwcH"));
    // The neutral element: every message has a signature by it that some verifiers take.
    let neutral = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert_eq!(neutral.parse::<PublicKey>().unwrap_err(), KeyError::Weak);
    for text in ["", "AAAA", "not base64 at all"] {
        assert_eq!(text.parse::<PublicKey>().unwrap_err(), KeyError::NotPublic);
    }
}

#[test]
fn versions_order() {
    let mut last = None;
    for text in ["0.1.0", "0.1.1", "0.2.0-rc1", "0.2.0", "0.10.0", "1.0.0"] {
        let version = parse_version(text);
        assert!(version.is_some() && version > last, "{text}");
        last = version;
    }
    for text in ["", "1", "1.0", "1.0.0.0", "a.b.c", "1..0", "+1.0.0", "1.0.-1"] {
        assert_eq!(parse_version(text), None, "{text}");
    }
}

/// Bytes of format 1, and the signature that OpenSSL makes of them. Never edit them: releases that were signed so must stay readable.
#[test]
fn golden_bytes() {
    let signed = signed(&manifest());
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&signed.manifest), GOLDEN_MANIFEST);
    assert_eq!(hex(&signed.signatures[0].bytes), GOLDEN_SIGNATURE);
    assert_eq!(signed.signatures[0].key.to_string(), GOLDEN_KEY);
}

const GOLDEN_MANIFEST: &str = "010365617205312e322e302a05302e312e3082ee89ab0d01018f4d7e112273448566778899aabbcc\
    0104676f6c610034e454904bb88bd29551c84372ea16b478ccb9bd46e304925840f5a008d2e86c02\
    0d6d616e69666573742e6a736f6e6401010101010101010101010101010101010101010101010101\
    0101010101010109686561642e6f6e6e786402020202020202020202020202020202020202020202\
    02020202020202020202";
const GOLDEN_SIGNATURE: &str = "739c41da83135721000dc85fb7da934bc369484c77fd7f7e82c7b63d3b25ed0744fde3caf6f87e46150bb84071bae9a8f310fd951257864dbb5eafa82fb7bd0a";
const GOLDEN_KEY: &str = "fe812c12f3ab4ce6";

proptest! {
    #[test]
    fn no_byte_of_a_manifest_can_be_changed(at in 0_usize..1_000, with in 1_u8..=255) {
        let mut case = Case::good();
        let at = at % case.signed.manifest.len();
        case.signed.manifest[at] ^= with;
        prop_assert_eq!(case.verdict(), Err(Refusal::BadSignature));
    }

    #[test]
    fn no_byte_of_a_signature_can_be_changed(at in 0_usize..64, with in 1_u8..=255) {
        let mut case = Case::good();
        case.signed.signatures[0].bytes[at] ^= with;
        prop_assert_eq!(case.verdict(), Err(Refusal::BadSignature));
    }

    #[test]
    fn a_manifest_cut_anywhere_is_refused(cut in 0_usize..1_000) {
        let whole = manifest().encode().unwrap();
        let bytes = whole[..cut % whole.len()].to_vec();
        // Even if the cut one is signed.
        let signatures = vec![key().sign(&bytes)];
        let case = Case { signed: SignedManifest { manifest: bytes, signatures }, ..Case::good() };
        prop_assert_eq!(case.code(), "malformed");
    }

    #[test]
    fn signed_rubbish_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let signatures = vec![key().sign(&bytes)];
        let case = Case { signed: SignedManifest { manifest: bytes, signatures }, ..Case::good() };
        prop_assert!(case.verdict().is_err());
    }

    #[test]
    fn every_manifest_survives_the_way(
        counter in 1_u64..100, devices in 0_usize..3, has_site: bool, way_back: bool,
    ) {
        let manifest = Manifest {
            counter,
            devices: vec![DEVICE; devices],
            site: has_site.then(|| "gola".parse::<Slug>().unwrap()),
            replaces: way_back.then(|| ReleaseRef { name: "a".into(), version: "1".into(), counter }),
            ..manifest()
        };
        let case = Case { highest: None, ..Case::of(&manifest) };
        prop_assert_eq!(case.verdict(), Ok(()));
    }
}
