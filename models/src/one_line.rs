//! An error and its causes in one line, for people.

use std::error::Error;

/// `message: cause: its cause`, without the causes that the text so far quotes already.
///
/// Our messages weave what the system said into a sentence that ends with the remedy; the chain of
/// causes would say it once more behind that.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[derive(Debug, thiserror::Error)]
    #[error("/x: {source}; look there")]
    struct Woven {
        source: std::io::Error,
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = Woven { source: std::io::Error::other("disk on fire") };
        let wrapped = Err::<(), _>(error).context("cannot begin").unwrap_err();
        assert_eq!(one_line(&*wrapped), "cannot begin: /x: disk on fire; look there");
    }
}
