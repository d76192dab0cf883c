//! Every topic that is built is parsed back, and nothing else is taken for one.

use ecosight_shared::{DeviceId, Slug, Topic};
use proptest::prelude::*;
use uuid::Uuid;

const DEVICE: DeviceId = DeviceId(Uuid::from_u128(0x018f_4d7e_1122_7344_8566_7788_99aa_bbcc));

fn all() -> [Topic<'static>; 9] {
    [
        Topic::Up("gola", DEVICE),
        Topic::Receipt("gola", DEVICE),
        Topic::Alert("gola", DEVICE),
        Topic::Status("gola", DEVICE),
        Topic::Desired("gola", DEVICE),
        Topic::Update("gola", DEVICE),
        Topic::Command("gola", DEVICE, "pull"),
        Topic::Reply("gola", DEVICE),
        Topic::SiteAlert("gola", "gun_shot"),
    ]
}

#[test]
fn what_is_built_is_parsed_back() {
    for topic in all() {
        assert_eq!(Topic::parse(&topic.to_string()), Ok(topic));
    }
}

#[test]
fn the_texts_are_fixed() {
    let texts = all().map(|topic| topic.to_string());
    assert_eq!(
        texts,
        [
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/up",
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/receipt",
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/alert",
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/status",
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/desired",
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/update",
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/cmd/pull",
            "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/reply",
            "ecosight/v1/gola/alerts/gun_shot",
        ]
    );
}

#[test]
fn foreign_topics_are_refused() {
    for topic in [
        "",
        "ecosight/v1",
        "ecosight/v1/gola",
        "ecosight/v2/gola/018f4d7e-1122-7344-8566-778899aabbcc/up",
        "ecosight/v1/Gola/018f4d7e-1122-7344-8566-778899aabbcc/up",
        "ecosight/v1/gola/not-a-uuid/up",
        "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/up/more",
        "ecosight/v1/gola/018f4d7e-1122-7344-8566-778899aabbcc/cmd/",
        "ecosight/v1/gola/alerts/a/b",
        "ecosight/v1/gola/alerts/#",
    ] {
        assert!(Topic::parse(topic).is_err(), "{topic}");
    }
}

#[test]
fn names_are_safe_everywhere() {
    for good in ["a", "ridge-north", "s7", "0", "a234567890123456789012345678901b"] {
        assert!(good.parse::<Slug>().is_ok(), "{good}");
    }
    for bad in
        ["", "-a", "a-", "Ridge", "a b", "a/b", "a+", "ä", "a23456789012345678901234567890123"]
    {
        assert!(bad.parse::<Slug>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,80}") {
        let _ = Topic::parse(&text);
        let _ = Topic::parse(&format!("ecosight/v1/{text}"));
    }
}
