//! What went wrong, in one line: an error and what caused it.
//!
//! Always true: every cause is told, outermost first, and none twice, also where
//! an error says in its own words what its cause says.

use std::error::Error;

/// The error and its causes.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot open the box")]
        Silent(#[source] io::Error),
        #[error("the key is lost: cannot open the box")]
        Telling(#[source] io::Error),
    }

    #[test]
    fn causes_are_told_once() {
        let key = || io::Error::other("the key is lost");
        assert_eq!(with_causes(&Outer::Silent(key())), "cannot open the box: the key is lost");
        assert_eq!(with_causes(&Outer::Telling(key())), "the key is lost: cannot open the box");
    }
}
