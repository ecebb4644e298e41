//! What a client of the service is told when it gets no answer: status, id and a text without details. The ids up to `SVC4007`, `POL4050`
//! and `POL5000` are those that implementations of ATIS-1000082 use; the others follow their pattern.

use hyper::StatusCode;
use serde_json::{Value, json};

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no body.
    NoBody,
    /// A member that must be there is not.
    Missing(&'static str),
    /// The client does not take JSON.
    NotAcceptable,
    /// No such resource, or no such policy.
    NotFound,
    /// The body is no JSON by its type.
    UnsupportedType,
    /// A member that can not be used, and what it should be.
    Invalid(&'static str, &'static str),
    /// The body can not be read.
    NotJson,
    /// Not POST.
    Method,
    /// No token, or a wrong one.
    Unauthorized,
    /// The policy does not do this: sign for this number, attest so much, verify at all.
    Forbidden,
    /// The body did not come in time.
    Slow,
    /// The body is longer than allowed.
    TooLarge,
    /// More requests than this client may make.
    TooMany,
    /// Nothing can be done now: queues are full, the worker or the module with the key did not answer.
    Busy,
    /// The server can not sign at all, or lost the request.
    Internal,
}

impl Problem {
    /// HTTP status, id, text (`%1` and so on stand for variables), name in metrics.
    fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        match self {
            Self::NoBody => (StatusCode::BAD_REQUEST, "SVC4000", "Missing request body", "bad-request"),
            Self::Missing(_) => (StatusCode::BAD_REQUEST, "SVC4001", "Missing mandatory parameter '%1'", "bad-request"),
            Self::NotAcceptable => (
                StatusCode::NOT_ACCEPTABLE,
                "SVC4002",
                "Requested response body type is not supported, expected '%1'",
                "bad-request",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "SVC4003", "Requested resource was not found", "not-found"),
            Self::UnsupportedType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "SVC4004",
                "Unsupported request body type, expected '%1'",
                "bad-request",
            ),
            Self::Invalid(..) => {
                (StatusCode::BAD_REQUEST, "SVC4005", "Invalid '%1' parameter value: %2", "bad-request")
            }
            Self::NotJson => {
                (StatusCode::BAD_REQUEST, "SVC4006", "Failed to parse received message body", "bad-request")
            }
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "POL4050", "Method not allowed", "bad-request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "POL4010", "Unauthorized", "unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "POL4030", "Forbidden by policy", "forbidden"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "POL4080", "Request timeout", "slow"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "POL4130", "Request body is too large", "too-large"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "POL4290", "Too many requests", "limited"),
            Self::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, "POL5030", "Service unavailable. Please try again later", "busy")
            }
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "POL5000",
                "Internal Server Error. Please try again later",
                "internal",
            ),
        }
    }

    /// HTTP status.
    pub fn status(self) -> StatusCode {
        self.facts().0
    }

    /// Name in metrics.
    pub fn name(self) -> &'static str {
        self.facts().3
    }

    /// The body. Nothing of what the client sent is in it.
    pub fn body(self) -> Value {
        let (_, id, text, _) = self.facts();
        let variables = match self {
            Self::Missing(name) => vec![name],
            Self::Invalid(name, expected) => vec![name, expected],
            Self::NotAcceptable | Self::UnsupportedType => vec!["application/json"],
            _ => Vec::new(),
        };
        let kind = if id.starts_with("SVC") { "serviceException" } else { "policyException" };
        json!({ "requestError": { kind: { "messageId": id, "text": text, "variables": variables } } })
    }
}
