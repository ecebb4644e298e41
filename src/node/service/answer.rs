//! One request of the service.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::problem::Problem;
use super::{Asking, Settings, Shared, read, reply};
use crate::node::{clock, random};
use crate::passport::ppt::shaken;
use crate::proxy::TrunkId;
use crate::proxy::service::{Kind, Replied};

/// The name by which a client knows its request, in our response too.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-requestid");
/// Octets of it.
const MAX_REQUEST_ID: usize = 128;
const JSON: &str = "application/json";

/// What a resource does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Signing,
    Verification,
    Other,
}

impl Endpoint {
    /// The resource of a path, and the policy that stands before it: `/NAME/stir/v1/signing`.
    fn of(path: &str) -> (Self, Option<&str>) {
        let known = [("/stir/v1/signing", Self::Signing), ("/stir/v1/verification", Self::Verification)];
        let found = known.into_iter().find_map(|(end, endpoint)| Some((endpoint, path.strip_suffix(end)?)));
        match found {
            Some((endpoint, "")) => (endpoint, None),
            Some((endpoint, before)) => match before.strip_prefix('/') {
                Some(policy) => (endpoint, Some(policy)),
                None => (Self::Other, None),
            },
            None => (Self::Other, None),
        }
    }
}

/// A good answer: what it says, and its name in metrics.
type Answer = (Value, &'static str);

/// Answers a request, and counts it. `heard` counts those that keep the connection from being idle: not those of strangers.
pub(super) async fn answer<B>(
    shared: &Shared,
    remote: IpAddr,
    request: Request<B>,
    heard: &AtomicU64,
) -> Response<Full<Bytes>>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let began = clock::instant();
    let _under_way = shared.counts.begin();
    let settings = Arc::clone(&shared.settings.borrow());
    let id = request_id(request.headers());
    let (endpoint, _) = Endpoint::of(request.uri().path());
    let result = treat(shared, &settings, remote, request, &id, heard).await;
    let (status, body, name) = match &result {
        Ok((body, name)) => (StatusCode::OK, body.clone(), *name),
        Err(problem) => (problem.status(), problem.body(), problem.name()),
    };
    shared.counts.end(endpoint as usize, name, clock::instant().saturating_duration_since(began));
    tracing::debug!(id = id.to_str().unwrap_or_default(), %remote, status = status.as_u16(), result = name, "STIR service");
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(REQUEST_ID, id);
    match result {
        Err(Problem::Method) => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
        Err(Problem::Unauthorized) => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        _ => {}
    }
    response
}

/// The client's own, if it is a short word; else one of ours.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_usable = |id: &&HeaderValue| {
        id.len() <= MAX_REQUEST_ID && !id.is_empty() && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let own = || HeaderValue::from_str(shaken::origid(random()).as_str());
    let given = headers.get(REQUEST_ID).filter(is_usable).cloned();
    given.or_else(|| own().ok()).unwrap_or(HeaderValue::from_static("none"))
}

async fn treat<B>(
    shared: &Shared,
    settings: &Settings,
    remote: IpAddr,
    request: Request<B>,
    id: &HeaderValue,
    heard: &AtomicU64,
) -> Result<Answer, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let now = u64::try_from(clock::instant().saturating_duration_since(shared.epoch).as_nanos()).unwrap_or(u64::MAX);
    let authorization = parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let client = settings.clients.identify(authorization, remote);
    // Who guesses tokens is held to the rate of his address.
    let bucket = client.unwrap_or(super::clients::Client::Address(remote));
    if !settings.clients.admit(bucket, now) {
        return Err(Problem::TooMany);
    }
    if client.is_none() {
        return Err(Problem::Unauthorized);
    }
    heard.fetch_add(1, Ordering::Relaxed);
    let (endpoint, policy) = Endpoint::of(parts.uri.path());
    let named = settings.policies.iter().find(|(name, _)| policy.is_none_or(|policy| policy == name));
    let Some(&(_, trunk)) = named.filter(|_| endpoint != Endpoint::Other) else { return Err(Problem::NotFound) };
    if parts.method != Method::POST {
        return Err(Problem::Method);
    }
    if !takes_json(&parts.headers) {
        return Err(Problem::NotAcceptable);
    }
    let body = tokio::time::timeout(settings.config.idle_timeout, collect(body, settings.config.max_body)).await;
    let body = body.map_err(|_| Problem::Slow)??;
    if body.is_empty() {
        return Err(Problem::NoBody);
    }
    if !is_json(&parts.headers) {
        return Err(Problem::UnsupportedType);
    }
    let body: Value = serde_json::from_slice(&body).map_err(|_| Problem::NotJson)?;
    let label = id.to_str().unwrap_or_default();
    match endpoint {
        Endpoint::Signing => sign(shared, settings, trunk, &body, label).await,
        _ => verify(shared, settings, trunk, &body, label).await,
    }
}

async fn collect<B>(body: B, most: usize) -> Result<Bytes, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.size_hint().lower() > most as u64 {
        return Err(Problem::TooLarge); // as Content-Length has it: nothing is read
    }
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::TooLarge),
        Err(_) => Err(Problem::NotJson), // it broke off
    }
}

/// The media type of a value, without its parameters.
fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| media_type(kind).eq_ignore_ascii_case(JSON))
}

fn takes_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let fits =
        |kind: &str| [JSON, "application/*", "*/*"].iter().any(|known| media_type(kind).eq_ignore_ascii_case(known));
    kinds.peek().is_none() || kinds.flat_map(|list| list.split(',')).any(fits)
}

async fn sign(
    shared: &Shared,
    settings: &Settings,
    trunk: TrunkId,
    body: &Value,
    label: &str,
) -> Result<Answer, Problem> {
    let facts = read::signing(body)?;
    let key = format!("{:?}{:?}", facts.orig, facts.dest);
    let replied = ask(shared, settings, trunk, label, key.as_bytes(), Kind::Sign(facts)).await?;
    match replied {
        Replied::Signed(value) => Ok((reply::signed(&String::from_utf8_lossy(&value)), "signed")),
        Replied::NotSigned(error) => Err(reply::not_signed(&error)),
        Replied::NoSignature => Err(Problem::Busy),
        Replied::NoPolicy => Err(Problem::Forbidden),
        Replied::Judged(_) | Replied::Unreadable => Err(Problem::Internal), // answers to another question
    }
}

async fn verify(
    shared: &Shared,
    settings: &Settings,
    trunk: TrunkId,
    body: &Value,
    label: &str,
) -> Result<Answer, Problem> {
    let asked = read::verification(body, label)?;
    // Whoever owns the first token: a second question about it finds what the first one has learnt.
    let key = asked.identities.first().map_or(&asked.invite[..], |identity| identity.as_bytes()).to_vec();
    let kind = Kind::Verify { invite: asked.invite, knows_call: asked.knows_call };
    match ask(shared, settings, trunk, label, &key, kind).await? {
        Replied::Judged(verdict) => Ok(reply::judged(&verdict, &asked.identities, asked.is_3gpp)),
        Replied::Unreadable => Err(Problem::Invalid("identity", "shorter")),
        Replied::NoPolicy => Err(Problem::Forbidden),
        Replied::Signed(_) | Replied::NotSigned(_) | Replied::NoSignature => Err(Problem::Internal), // answers to another question
    }
}

/// Asks the worker that a key belongs to.
async fn ask(
    shared: &Shared,
    settings: &Settings,
    trunk: TrunkId,
    label: &str,
    key: &[u8],
    kind: Kind,
) -> Result<Replied, Problem> {
    let (answer, answered) = oneshot::channel();
    let queue = shared.workers.queues.get(shared.workers.owners.of(key)).ok_or(Problem::Internal)?;
    queue.try_send(Asking { trunk, label: label.into(), kind, answer }).map_err(|_| Problem::Busy)?;
    match timeout(settings.config.answer_timeout, answered).await {
        Ok(Ok(replied)) => Ok(replied),
        Ok(Err(_)) => Err(Problem::Internal), // the worker was restarted
        Err(_) => Err(Problem::Busy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_names_resource_and_policy() {
        let of = |path| {
            let (endpoint, policy) = Endpoint::of(path);
            (endpoint as usize, policy)
        };
        assert_eq!(of("/stir/v1/signing"), (0, None));
        assert_eq!(of("/stir/v1/verification"), (1, None));
        assert_eq!(of("/carrier/stir/v1/signing"), (0, Some("carrier")));
        assert_eq!(of("x/stir/v1/signing"), (2, None));
        for other in ["/", "/stir/v1/", "/stir/v2/signing", "/stir/v1/signing/", ""] {
            assert_eq!(of(other), (2, None), "{other}");
        }
    }

    #[test]
    fn json_is_asked_for_and_taken() {
        let with =
            |name: HeaderName, value: &'static str| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        for good in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(is_json(&with(CONTENT_TYPE, good)), "{good}");
        }
        for bad in ["text/plain", "application/jsonx", "application/x-www-form-urlencoded"] {
            assert!(!is_json(&with(CONTENT_TYPE, bad)), "{bad}");
        }
        for good in ["*/*", "text/html, application/json;q=0.5", "application/*"] {
            assert!(takes_json(&with(ACCEPT, good)), "{good}");
        }
        assert!(takes_json(&HeaderMap::new()) && !is_json(&HeaderMap::new()));
        assert!(!takes_json(&with(ACCEPT, "text/html, application/xml")));
    }

    #[test]
    fn a_request_id_is_echoed_or_drawn() {
        let given = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, value)])).to_str().unwrap().to_owned()
        };
        assert_eq!(given("AA97B177-9383-4934-8543-0F91A7A02836"), "AA97B177-9383-4934-8543-0F91A7A02836");
        for unusable in ["", "two words", &"x".repeat(129)] {
            let drawn = given(unusable);
            assert!(drawn.len() == 36 && drawn != given(unusable), "{drawn}");
        }
    }
}
