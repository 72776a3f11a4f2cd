//! The status page: one file, in the program. It loads nothing from elsewhere and
//! is forbidden to.

use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};

use crate::serve::Answer;

const PAGE: &str = include_str!("page.html");

/// Its own script and style, and answers from where it came from: nothing else.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn answer() -> Answer {
    Answer::new(StatusCode::OK, "text/html; charset=utf-8", PAGE)
        .with(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))
        .with(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"))
}

#[cfg(test)]
mod tests {
    use super::PAGE;

    #[test]
    fn the_page_is_whole() {
        for outside in ["http://", "https://", "src=", "@import", "url(", "<link", "innerHTML", "eval("] {
            let allowed = ["http://www.w3.org/2000/svg", "<link rel=\"icon\" href=\"data:"];
            let text = allowed.iter().fold(PAGE.to_owned(), |text, fine| text.replace(fine, ""));
            assert!(!text.contains(outside), "the page says {outside}");
        }
        assert!(PAGE.contains("<html lang=\"en\">") && PAGE.contains("name=\"viewport\""));
        assert!(PAGE.len() < 64 * 1024, "{} bytes", PAGE.len());
    }
}
