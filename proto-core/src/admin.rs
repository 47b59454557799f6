//! The admin API as a pure function: what to answer to a request. The shell only carries it over
//! HTTP.

use blake2::{Blake2s256, Digest};
use subtle::ConstantTimeEq;

use crate::config::Secret;
use crate::status::Status;

/// The longest path that is looked at, in bytes, with its query string.
pub const MAX_PATH: usize = 1024;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What was asked.
#[derive(Clone, Copy)]
pub struct AdminRequest<'a> {
    /// HTTP method, in capitals.
    pub method: &'a str,
    /// Path as in the request line; a query string is ignored.
    pub path: &'a str,
    /// Value of the header `Authorization`.
    pub authorization: Option<&'a str>,
}

impl std::fmt::Debug for AdminRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `authorization` may hold the token.
        f.debug_struct("AdminRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminAnswer {
    /// HTTP status code.
    pub code: u16,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Further headers, name and value.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The content. Its length is the `Content-Length` even where it is not sent.
    pub body: String,
    /// Whether the body is to be withheld: the request was a `HEAD`.
    pub head_only: bool,
}

/// Answers one request.
///
/// `GET /health` is always 200. `GET /status` is [`Status`] as JSON; if there is a `token`, it needs
/// the header `Authorization: Bearer` with it. `HEAD` works like `GET`. `status` is asked only when
/// its answer is needed; where it has none (the node is not there yet, or hangs) the answer is 503.
#[must_use]
pub fn answer(
    request: AdminRequest<'_>,
    token: Option<&Secret>,
    status: &dyn Fn() -> Option<Status>,
) -> AdminAnswer {
    let head_only = request.method == "HEAD";
    AdminAnswer { head_only, ..route(request, token, status) }
}

fn route(
    request: AdminRequest<'_>,
    token: Option<&Secret>,
    status: &dyn Fn() -> Option<Status>,
) -> AdminAnswer {
    if request.path.len() > MAX_PATH {
        return error(414, "the path is too long");
    }
    let path = request.path.split(['?', '#']).next().unwrap_or_default();
    if !matches!(path, "/health" | "/status") {
        return error(404, "no such path; there are /health and /status");
    }
    if !matches!(request.method, "GET" | "HEAD") {
        return with_header(error(405, "only GET and HEAD are allowed"), "Allow", "GET, HEAD");
    }
    if path == "/health" {
        return AdminAnswer {
            code: 200,
            content_type: TEXT,
            headers: vec![("Cache-Control", "no-store")],
            body: "ok".to_owned(),
            head_only: false,
        };
    }
    if let Some(token) = token
        && !is_authorized(request.authorization, token)
    {
        let refusal = error(401, "a bearer token is needed");
        return with_header(refusal, "WWW-Authenticate", "Bearer");
    }
    let Some(status) = status() else {
        return error(503, "the node does not answer");
    };
    match serde_json::to_string(&status) {
        Ok(body) => AdminAnswer {
            code: 200,
            content_type: JSON,
            headers: vec![("Cache-Control", "no-store")],
            body,
            head_only: false,
        },
        Err(_) => error(500, "the status cannot be rendered"),
    }
}

/// Compares hashes, in constant time: neither the content nor the length of the token shows in the
/// time taken.
fn is_authorized(authorization: Option<&str>, token: &Secret) -> bool {
    let Some((scheme, given)) = authorization.and_then(|value| value.trim().split_once(' ')) else {
        return false;
    };
    let given = Blake2s256::digest(given.trim_start().as_bytes());
    let wanted = Blake2s256::digest(token.expose().as_bytes());
    scheme.eq_ignore_ascii_case("Bearer") && bool::from(given.as_slice().ct_eq(wanted.as_slice()))
}

/// `message` is made of what JSON needs not escape.
fn error(code: u16, message: &'static str) -> AdminAnswer {
    AdminAnswer {
        code,
        content_type: JSON,
        headers: vec![("Cache-Control", "no-store")],
        body: format!("{{\"error\":\"{message}\"}}"),
        head_only: false,
    }
}

fn with_header(mut answer: AdminAnswer, name: &'static str, value: &'static str) -> AdminAnswer {
    answer.headers.push((name, value));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{LatencyStatus, PeerStatus};

    fn status() -> Option<Status> {
        let peer = PeerStatus { node_id: "b".to_owned(), ..PeerStatus::default() };
        let latency = LatencyStatus {
            from: "a".to_owned(),
            to: "b".to_owned(),
            rtt_us: 7,
            ..LatencyStatus::default()
        };
        Some(Status {
            node_id: "a\"\n".to_owned(),
            peers: vec![peer],
            latencies: vec![latency],
            ..Status::default()
        })
    }

    fn ask(
        method: &str,
        path: &str,
        authorization: Option<&str>,
        token: Option<&str>,
    ) -> AdminAnswer {
        let token = token.map(|token| Secret::new(token.to_owned()));
        answer(AdminRequest { method, path, authorization }, token.as_ref(), &status)
    }

    #[test]
    fn health_needs_no_token_and_no_status() {
        let token = Secret::new("t".to_owned());
        let request = AdminRequest { method: "GET", path: "/health", authorization: None };
        let answer = answer(request, Some(&token), &|| None);
        assert_eq!((answer.code, answer.body.as_str()), (200, "ok"));
    }

    #[test]
    fn status_is_json() {
        let answer = ask("GET", "/status?pretty=1", None, None);
        assert_eq!((answer.code, answer.content_type), (200, "application/json"));
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(json["node_id"], "a\"\n");
        assert_eq!(json["peers"][0]["node_id"], "b");
        assert_eq!(json["peers"][0]["rtt_us"], serde_json::Value::Null);
        let latency = &json["latencies"][0];
        assert_eq!((&latency["from"], &latency["to"]), (&"a".into(), &"b".into()));
        assert_eq!(latency["rtt_us"], 7);
        assert!(json["paths"].is_array() && json["tcp_flows"].is_u64());
    }

    #[test]
    fn a_head_is_told_to_the_shell() {
        let (head, get) = (ask("HEAD", "/status", None, None), ask("GET", "/status", None, None));
        assert!(head.head_only && !get.head_only);
        assert_eq!((head.code, head.body), (get.code, get.body));
        assert!(ask("HEAD", "/nothing", None, None).head_only);
    }

    #[test]
    fn status_wants_the_token() {
        let refused = [
            "",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secrets",
            "Basic secret",
            "secret",
            "Bearer secret secret",
            "Bearer Secret",
        ];
        for header in refused.iter().map(|header| Some(*header)).chain([None]) {
            let answer = ask("GET", "/status", header, Some("secret"));
            assert_eq!(answer.code, 401, "{header:?}");
            assert!(answer.headers.contains(&("WWW-Authenticate", "Bearer")));
            assert!(!answer.body.contains("secret") && !answer.body.contains("node_id"));
        }
        for header in ["Bearer secret", "bearer secret", "BEARER   secret", " Bearer secret "] {
            assert_eq!(ask("GET", "/status", Some(header), Some("secret")).code, 200, "{header:?}");
        }
        assert_eq!(ask("GET", "/status", Some("Bearer whatever"), None).code, 200);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let json = |answer: &AdminAnswer| -> serde_json::Value {
            serde_json::from_str(&answer.body).unwrap()
        };
        for path in ["/", "", "/status/", "/Status", "//status", "status", "/metrics", "*", "?"] {
            let answer = ask("GET", path, None, Some("t"));
            assert_eq!(answer.code, 404, "{path}");
            assert!(json(&answer)["error"].is_string());
        }
        for method in ["POST", "OPTIONS", "get", ""] {
            let answer = ask(method, "/status", None, Some("t"));
            assert_eq!(answer.code, 405, "{method}");
            assert!(answer.headers.contains(&("Allow", "GET, HEAD")));
        }
        let long = format!("/status?{}", "a".repeat(MAX_PATH));
        assert_eq!(ask("GET", &long, None, None).code, 414);
        assert_eq!(ask("GET", &long[..MAX_PATH], None, None).code, 200);
        let request = AdminRequest { method: "GET", path: "/status", authorization: None };
        assert_eq!(answer(request, None, &|| None).code, 503);
    }

    #[test]
    fn the_token_is_not_in_debug() {
        let request =
            AdminRequest { method: "GET", path: "/status", authorization: Some("Bearer s3cret") };
        assert!(!format!("{request:?}").contains("s3cret"));
    }
}
