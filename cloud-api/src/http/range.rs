//! Content that never changes, whole or in ranges (RFC 9110, sections 13 and 14).

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::Problem;

/// What a request for content is answered with.
pub(super) enum Ranged {
    /// The client has it.
    Unchanged,
    /// This part of it.
    Part(Head),
}

/// The part of the content that is sent, and what is said of it.
pub(super) struct Head {
    /// Its first byte.
    pub(super) first: u64,
    /// Its length.
    pub(super) len: u64,
    total: u64,
    partial: bool,
    tag: String,
}

/// Reads the request's headers for content of `total` bytes whose hash is `sha256`; `what` is its word
/// for people.
///
/// # Errors
/// A range outside the content.
pub(super) fn ranged(
    headers: &HeaderMap,
    total: u64,
    sha256: &str,
    what: &str,
) -> Result<Ranged, Problem> {
    let tag = format!("\"{sha256}\"");
    if headers.get(IF_NONE_MATCH).is_some_and(|seen| seen.as_bytes() == tag.as_bytes()) {
        return Ok(Ranged::Unchanged);
    }
    let wanted = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let (partial, first, len) = match wanted.map_or(Wanted::All, |range| wanted_range(range, total))
    {
        Wanted::All => (false, 0, total),
        Wanted::Part { first, last } => (true, first, last - first + 1),
        Wanted::Nothing => {
            let none = HeaderValue::try_from(format!("bytes */{total}"));
            return Err(Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("The {what} has {total} bytes."),
            )
            .with(CONTENT_RANGE, none.unwrap_or(HeaderValue::from_static("bytes */*"))));
        }
    };
    Ok(Ranged::Part(Head { first, len, total, partial, tag }))
}

impl Head {
    /// The answer with this part as its body.
    pub(super) fn answer(&self, content_type: &'static str, body: Body) -> Response {
        let mut response = body.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_LENGTH, self.len.into());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        // Its address names one content for ever.
        let kept = HeaderValue::from_static("private, max-age=31536000, immutable");
        headers.insert(CACHE_CONTROL, kept);
        if let Ok(tag) = HeaderValue::try_from(&*self.tag) {
            headers.insert(ETAG, tag);
        }
        if self.partial {
            let last = self.first + self.len - 1;
            let range = format!("bytes {}-{last}/{}", self.first, self.total);
            if let Ok(range) = HeaderValue::try_from(range) {
                headers.insert(CONTENT_RANGE, range);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part { first: u64, last: u64 },
    Nothing,
}

/// One range only; what is malformed or many is answered with the whole.
fn wanted_range(text: &str, total: u64) -> Wanted {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), _) if first >= total && !last.contains(',') => Wanted::Nothing,
        (Ok(first), Ok(last)) if first <= last => Wanted::Part { first, last: last.min(total - 1) },
        (Ok(first), Err(_)) if last.trim().is_empty() => Wanted::Part { first, last: total - 1 },
        (Err(_), Ok(0)) if first.trim().is_empty() => Wanted::Nothing,
        (Err(_), Ok(_)) if first.trim().is_empty() && total == 0 => Wanted::Nothing,
        (Err(_), Ok(suffix)) if first.trim().is_empty() => {
            Wanted::Part { first: total.saturating_sub(suffix), last: total - 1 }
        }
        _ => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, wanted_range};

    #[test]
    fn ranges_are_cut_to_the_content() {
        let part = |first, last| Wanted::Part { first, last };
        for (text, wanted) in [
            ("bytes=0-9", part(0, 9)),
            ("bytes=5-", part(5, 99)),
            ("bytes=90-200", part(90, 99)),
            ("bytes=-10", part(90, 99)),
            ("bytes=-1000", part(0, 99)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=9-5", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("bytes=", Wanted::All),
        ] {
            assert_eq!(wanted_range(text, 100), wanted, "{text}");
        }
        for text in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(wanted_range(text, 0), Wanted::Nothing, "{text} of nothing");
        }
    }
}
