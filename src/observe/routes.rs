//! Which path shows what, and to whom.
//!
//! Always true: without the token, if one is set, nothing but a grade is told. No
//! path changes anything.

use std::sync::Arc;
use std::time::Instant;

use aws_smithy_types::base64;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Serialize;

use super::{Observer, grades, page};
use crate::health::{Grade, judge};
use crate::serve::{Answer, Handler, Request};
use crate::types::Secret;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Observer {
    /// For the server.
    pub fn handler(self: &Arc<Self>) -> Handler {
        let observer = self.clone();
        Arc::new(move |request| {
            let observer = observer.clone();
            Box::pin(async move { observer.answer(&request).await })
        })
    }

    /// The answer to one request.
    pub async fn answer(&self, request: &Request) -> Answer {
        let known = ["/", "/metrics", "/healthz", "/readyz", "/api/status", "/api/database"];
        if !known.contains(&request.path.as_str()) {
            return Answer::not_found();
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Answer::method_not_allowed("GET, HEAD");
        }
        let answer = match request.path.as_str() {
            "/healthz" => self.healthz(),
            "/readyz" => self.readyz(),
            _ if !self.may(request) => {
                // One header for each way: browsers do not read on behind the first they do not know.
                let refused = Answer::text(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
                let ways = ["Basic realm=\"brooklet\", charset=\"UTF-8\"", "Bearer"].map(HeaderValue::from_static);
                ways.into_iter().fold(refused, |answer, way| answer.with(WWW_AUTHENTICATE, way))
            }
            "/metrics" => Answer::new(StatusCode::OK, PROMETHEUS, self.metrics()),
            "/api/status" => json(&self.status()),
            "/api/database" => match request.parameter("id").and_then(|id| id.parse().ok()) {
                Some(id) => match self.detail(id).await {
                    Some(detail) => json(&detail),
                    None => Answer::text(StatusCode::NOT_FOUND, "there is no such database"),
                },
                None => Answer::text(StatusCode::BAD_REQUEST, "which database? add ?id=N, as /api/status tells it"),
            },
            _ => page::answer(),
        };
        // What a browser keeps could be shown for the present.
        let answer = answer.with(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer.with(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"))
    }

    /// 200 unless something has failed. No paths and no reasons: everybody may ask.
    fn healthz(&self) -> Answer {
        let now = Instant::now();
        let mut found = Vec::new();
        self.source.each(&mut |_, facts| found.push(judge(facts, now, self.options.objective).overall.grade));
        let worst = found.iter().copied().max().unwrap_or(Grade::Degraded);
        let [ok, degraded, failed] = grades(found.into_iter());
        let status = if worst == Grade::Failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        Answer::text(status, &format!("{worst}: {ok} ok, {degraded} degraded, {failed} failed"))
    }

    /// 200 once every database was looked at.
    fn readyz(&self) -> Answer {
        match self.is_ready() {
            true => Answer::text(StatusCode::OK, "ready"),
            false => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "starting"),
        }
    }

    fn may(&self, request: &Request) -> bool {
        let Some(token) = &self.options.token else { return true };
        let shown = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, shown)) = shown.and_then(|value| value.split_once(' ')) else { return false };
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => same(token, shown.trim().as_bytes()),
            // A browser asks for name and password: any name, and the token.
            "basic" => {
                let decoded = base64::decode(shown.trim()).unwrap_or_default();
                decoded.iter().position(|byte| *byte == b':').is_some_and(|colon| same(token, &decoded[colon + 1..]))
            }
            _ => false,
        }
    }
}

/// Takes as long wherever the difference is.
fn same(token: &Secret, shown: &[u8]) -> bool {
    let token = token.reveal().as_bytes();
    let differences = token.iter().zip(shown).fold(0, |found, (a, b)| found | (a ^ b));
    token.len() == shown.len() && differences == 0
}

fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("texts and numbers can be written");
    Answer::json(StatusCode::OK, Bytes::from(body))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::daemon::Kept;
    use crate::health::Objective;
    use crate::observe::{Observed, Options, Source};
    use crate::status::{DatabaseFacts, Health, Seen};

    /// Databases with this health, all with a replica that has everything.
    struct Made(Vec<Health>);

    impl Made {
        fn facts(health: &Health, number: usize) -> DatabaseFacts {
            DatabaseFacts {
                path: PathBuf::from(format!("/data/{number}.db")).into(),
                health: health.clone(),
                replicas: vec![crate::status::ReplicaFacts { name: "file".to_owned(), ..Default::default() }],
                since: Instant::now().checked_sub(Duration::from_secs(120)),
                looked: Some(Instant::now()),
                seen: Some(Seen { frames: 1, bytes: 4152, uncaptured: None, guard: true }),
                ..DatabaseFacts::default()
            }
        }
    }

    impl Source for Made {
        fn each(&self, look: &mut dyn FnMut(u64, &DatabaseFacts)) {
            self.0.iter().enumerate().for_each(|(id, health)| look(id as u64, &Self::facts(health, id)));
        }

        fn observe(&self) -> Vec<Observed> {
            let one = |(id, health)| Observed { id: id as u64, facts: Self::facts(health, id), ..Observed::default() };
            self.0.iter().enumerate().map(one).collect()
        }

        fn kept(&self, _: u64, _: usize) -> Option<Kept> {
            None
        }
    }

    async fn ask(databases: &[Health], token: Option<&str>, path: &str, authorization: Option<&str>) -> Answer {
        let options = Options { objective: Objective::default(), token: token.map(Secret::new), ..Options::default() };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut headers = hyper::HeaderMap::new();
        if let Some(text) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(text).unwrap());
        }
        let request = Request {
            method: Method::GET,
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: Bytes::new(),
        };
        Observer::new(Arc::new(Made(databases.to_vec())), options).answer(&request).await
    }

    #[tokio::test]
    async fn health_is_for_everybody_and_says_no_more_than_a_grade() {
        let broken = Health::Broken("a secret place".to_owned());
        for (databases, status, text) in [
            (&[Health::Live, Health::Live][..], 200, "ok: 2 ok, 0 degraded, 0 failed\n"),
            (&[Health::Live, Health::Waiting("no file".to_owned())], 200, "degraded: 1 ok, 1 degraded, 0 failed\n"),
            (&[Health::Live, broken], 503, "failed: 1 ok, 0 degraded, 1 failed\n"),
            (&[], 200, "degraded: 0 ok, 0 degraded, 0 failed\n"),
        ] {
            let answer = ask(databases, Some("s3cret"), "/healthz", None).await;
            assert_eq!((answer.status.as_u16(), &answer.body[..]), (status, text.as_bytes()));
        }
        assert_eq!(ask(&[Health::Live], Some("x"), "/readyz", None).await.status, StatusCode::OK);
        let starting = ask(&[Health::Live, Health::Starting], None, "/readyz", None).await;
        assert_eq!(starting.status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn everything_else_needs_the_token_if_there_is_one() {
        let basic = format!("Basic {}", base64::encode("anybody:s3cret"));
        let wrong = format!("Basic {}", base64::encode("s3cret:anybody"));
        for path in ["/", "/metrics", "/api/status", "/api/database?id=0"] {
            for (shown, status) in [
                (None, 401),
                (Some("Bearer s3cre"), 401),
                (Some("Bearer s3crets"), 401),
                (Some("s3cret"), 401),
                (Some(wrong.as_str()), 401),
                (Some("Basic ***"), 401),
                (Some("Bearer s3cret"), 200),
                (Some("bearer s3cret"), 200),
                (Some(basic.as_str()), 200),
            ] {
                let answer = ask(&[Health::Live], Some("s3cret"), path, shown).await;
                assert_eq!(answer.status.as_u16(), status, "{path} {shown:?}");
            }
            assert_eq!(ask(&[Health::Live], None, path, None).await.status, StatusCode::OK, "{path}");
        }
    }

    #[tokio::test]
    async fn the_json_has_what_the_page_and_check_need() {
        let answer = ask(&[Health::Live, Health::Broken("x".to_owned())], None, "/api/status", None).await;
        let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((status["status"].as_str(), status["counts"]["failed"].as_u64()), (Some("failed"), Some(1)));
        let database = &status["databases"][1];
        assert_eq!((database["path"].as_str(), database["state"].as_str()), (Some("/data/1.db"), Some("broken")));
        assert_eq!(database["reasons"][0]["cause"], "broken");
        let answer = ask(&[Health::Live], None, "/api/database?id=7", None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(ask(&[], None, "/api/database", None).await.status, StatusCode::BAD_REQUEST);
        assert_eq!(ask(&[], None, "/favicon.ico", None).await.status, StatusCode::NOT_FOUND);
    }
}
