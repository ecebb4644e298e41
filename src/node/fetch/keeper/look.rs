//! One look at a list: read or fetched, checked, learned, and kept on disk.

use std::sync::Arc;
use std::time::Duration;

use super::{
    ANCHORS_FILE, AnchorSource, LOGS_FILE, Learned, ListSource, MAX_LIST, PATIENCE, Place, REFERENCE_PATIENCE, Refused,
    SKEW, What,
};
use crate::cert::{
    AnchorList, Certificate, Crl, CrlError, LogList, ReferencedList, ReferencedLists, TnAuthList, open, sct,
};
use crate::node::fetch::client::{Body, Client, Wish};
use crate::node::fetch::{Config, guard, memory};
use crate::node::trust::{Desk, Verdicts};

/// Learns the lists that lie in files, and otherwise those that were good last: what is fetched comes later, and calls come at once.
pub(in crate::node::fetch) fn restore(config: &Config, desk: &Desk) {
    let (learned, unix) = (desk.learned(), crate::node::clock::unix());
    let kept = |name: &str| std::fs::read(config.state_directory.as_ref()?.join(name)).ok();
    let at = |place: &Place, name: &str| match place {
        Place::File(path) => std::fs::read(path).ok().or_else(|| kept(name)),
        Place::Url(_) => kept(name),
    };
    if let (Some(source), None) = (&config.keeper.anchors, &learned.anchors) {
        // The one on disk is the one that counted last: its number is the lowest that may follow.
        let known = kept(ANCHORS_FILE).and_then(|token| AnchorList::read(&token, &source.key, None).ok());
        let sequence = known.as_ref().map(|list| list.sequence);
        let read = at(&source.place, ANCHORS_FILE).map(|token| AnchorList::read(&token, &source.key, sequence));
        let list = match (read, known) {
            (Some(Err(error)), Some(known)) => {
                tracing::warn!(%error, "the list of authorities is refused; the one kept from before stays");
                Some(Ok(known))
            }
            (read, _) => read,
        };
        list.map(|list| list.map_err(Refused::Anchors).and_then(|list| take_anchors(list, source, unix, desk)))
            .and_then(|taken| report(&What::Anchors, taken));
    }
    if let (Some(source), None) = (&config.keeper.logs, &learned.logs) {
        at(&source.place, &logs_file(source))
            .map(|text| read_logs(&text, source).map(|logs| take_logs(logs, desk)))
            .and_then(|taken| report(&What::Logs, taken));
    }
}

pub(super) fn report(what: &What, learned: Learned) -> Option<i64> {
    let (kind, url) = what.describe();
    match learned {
        Ok(seconds) => {
            tracing::debug!(url, seconds, "{kind} is up to date");
            Some(seconds)
        }
        Err(error) => {
            tracing::warn!(url, %error, "{kind} can not be brought up to date; what is at hand stays");
            None
        }
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

pub(super) fn grace(source: &AnchorSource) -> i64 {
    seconds(source.grace)
}

async fn get(place: &Place, accept: &'static str, client: &Client, config: &Config) -> Result<Vec<u8>, Refused> {
    match place {
        Place::File(path) => std::fs::read(path).map_err(Refused::File),
        Place::Url(url) => {
            let target = guard::target(url, config.allow_any_port).map_err(Refused::Fetch)?;
            let wish = Wish { accept, max_body: MAX_LIST, timeout: PATIENCE };
            client.body(&target, wish).await.map(|body| body.bytes.to_vec()).map_err(Refused::Fetch)
        }
    }
}

pub(super) async fn anchors(config: &Config, client: &Client, desk: &Desk, unix: i64) -> Learned {
    let interval = seconds(config.keeper.list_interval);
    let Some(source) = &config.keeper.anchors else { return Ok(interval) };
    let token = get(&source.place, "application/jose, application/jwt", client, config).await?;
    let known = desk.learned().anchors.map(|list| list.sequence);
    let list = AnchorList::read(&token, &source.key, known).map_err(Refused::Anchors)?;
    take_anchors(list, source, unix, desk)?;
    keep(config, ANCHORS_FILE, &token);
    Ok(interval)
}

/// Learns a list, unless it is the one at hand. A list that is past its `exp` counts for the grace, which is told.
fn take_anchors(list: AnchorList, source: &AnchorSource, unix: i64, desk: &Desk) -> Learned {
    list.check_expiry(unix, grace(source)).map_err(Refused::Anchors)?;
    if let Err(error) = list.check_expiry(unix, 0) {
        tracing::error!(%error, "the list of authorities has expired; it counts for the grace only");
    }
    let known = desk.learned().anchors;
    if known
        .is_some_and(|known| (known.sequence, known.exp) == (list.sequence, list.exp) && same_anchors(&known, &list))
    {
        return Ok(0);
    }
    for (place, why) in &list.left_out {
        tracing::warn!(place, why, "an entry of the list of authorities is left out");
    }
    tracing::info!(sequence = list.sequence, anchors = list.anchors.len(), "a list of authorities has been learned");
    desk.learn(Verdicts::AreMadeAnew, |learned| learned.anchors = Some(Arc::new(list)));
    Ok(0)
}

fn same_anchors(one: &AnchorList, other: &AnchorList) -> bool {
    one.anchors.iter().map(|anchor| anchor.der()).eq(other.anchors.iter().map(|anchor| anchor.der()))
}

pub(super) async fn logs(config: &Config, client: &Client, desk: &Desk) -> Learned {
    let interval = seconds(config.keeper.list_interval);
    let Some(source) = &config.keeper.logs else { return Ok(interval) };
    let text = get(&source.place, "application/json", client, config).await?;
    let list = read_logs(&text, source)?;
    take_logs(list, desk);
    keep(config, &logs_file(source), &text);
    Ok(interval)
}

/// Where a list of logs is kept. One without a key is believed because of where it comes from, and counts for no other place.
fn logs_file(source: &ListSource) -> String {
    let place = match (&source.key, &source.place) {
        (Some(_), _) => return LOGS_FILE.to_owned(),
        (None, Place::Url(url)) => url.as_bytes(),
        (None, Place::File(path)) => path.as_os_str().as_encoded_bytes(),
    };
    let digest = crate::cert::hex(&sct::sha256(place));
    format!("logs-{digest}.json")
}

fn read_logs(text: &[u8], source: &ListSource) -> Result<LogList, Refused> {
    match &source.key {
        Some(key) => LogList::from_json(&open(text, key).map_err(Refused::Anchors)?),
        None => LogList::from_json(text),
    }
    .map_err(Refused::Logs)
}

fn take_logs(list: LogList, desk: &Desk) -> i64 {
    let known = desk.learned().logs;
    if known.is_none_or(|known| known.to_json() != list.to_json()) {
        tracing::info!(logs = list.len(), "a list of transparency logs has been learned");
        desk.learn(Verdicts::AreMadeAnew, |learned| learned.logs = Some(Arc::new(list)));
    }
    0
}

/// Keeps what was good on disk.
fn keep(config: &Config, name: &str, content: &[u8]) {
    let Some(directory) = &config.state_directory else { return };
    let path = directory.join(name);
    if std::fs::read(&path).is_ok_and(|kept| kept == content) {
        return;
    }
    if let Err(error) = memory::write(&path, content) {
        tracing::warn!(path = %path.display(), %error, "a list can not be kept on disk");
    }
}

pub(super) async fn crl(
    url: &Arc<str>,
    issuers: Vec<Arc<[u8]>>,
    config: &Arc<Config>,
    client: &Client,
    desk: &Desk,
    unix: i64,
) -> Learned {
    let target = guard::target(url, config.allow_any_port).map_err(Refused::Fetch)?;
    let wish = Wish { accept: "application/pkix-crl", max_body: config.keeper.max_crl, timeout: PATIENCE };
    let Body { bytes, fresh } = client.body(&target, wish).await.map_err(Refused::Fetch)?;
    let (settings, trust) = (Arc::clone(config), desk.current());
    // A large one takes its time to read: not this thread's, which answers calls.
    let read = tokio::task::spawn_blocking(move || {
        let configured = settings.keeper.crl_issuers.iter().map(Vec::as_slice);
        let named = configured.chain(issuers.iter().map(|der| &**der));
        let named: Vec<Certificate> = named.filter_map(|der| Certificate::from_der(der).ok()).collect();
        let signers = named.iter().chain(trust.anchors.iter().map(|anchor| &**anchor));
        Crl::from_der(&bytes, signers, settings.keeper.max_crl_entries)
    });
    let crl = read.await.map_err(|_| Refused::Panicked)?.map_err(Refused::Crl)?;
    let window = crl.window();
    if !crl.is_current(unix, SKEW) {
        return Err(Refused::Crl(CrlError::NotCurrent { window }));
    }
    let known = desk.learned().revocations.get(url).cloned();
    if known.is_some_and(|known| !crl.may_replace(&known)) {
        return Err(Refused::Crl(CrlError::OutOfDate));
    }
    tracing::info!(%url, entries = crl.len(), next_update = window[1], "a CRL has been learned");
    desk.learn(Verdicts::Hold, |learned| learned.revocations = learned.revocations.with(url, Arc::new(crl)));
    // Well before its end, as HTTP says, and in any case now and then.
    let left = window[1].saturating_sub(unix).max(0);
    let http = fresh.map_or(i64::MAX, seconds);
    Ok((left - left / 10).min(http).min(seconds(config.keeper.crl_interval)).max(60))
}

/// A TNAuthList that was fetched with a chain.
pub(in crate::node::fetch) struct FirstLook {
    pub uri: Arc<str>,
    /// End of the certificate that names it.
    pub not_after: i64,
    /// When it is to be looked at next, Unix seconds.
    pub due: i64,
}

/// Fetches TNAuthLists that a fetched chain names, so that its first call finds them. Gives those that were learned; there are no more than
/// `max` at hand in all.
pub(in crate::node::fetch) async fn fetch_lists(
    uris: &[String],
    not_after: i64,
    max: usize,
    client: &Client,
    desk: &Desk,
) -> Vec<FirstLook> {
    let mut looks = Vec::new();
    for uri in uris {
        let uri: Arc<str> = uri.as_str().into();
        let reach = Reach { not_after, max, timeout: REFERENCE_PATIENCE };
        let learned = reference(&uri, reach, client, desk).await;
        if let Some(seconds) = report(&What::Reference(Arc::clone(&uri)), learned) {
            let due = crate::node::clock::unix().saturating_add(seconds);
            looks.push(FirstLook { uri, not_after, due });
        }
    }
    looks
}

/// How far one goes for a TNAuthList.
pub(super) struct Reach {
    /// It counts no longer than this.
    pub not_after: i64,
    /// So many may be at hand.
    pub max: usize,
    pub timeout: Duration,
}

pub(super) async fn reference(uri: &Arc<str>, reach: Reach, client: &Client, desk: &Desk) -> Learned {
    let Reach { not_after, max, timeout } = reach;
    let has_room = |lists: &ReferencedLists| lists.get(uri).is_some() || lists.len() < max;
    if !has_room(&desk.learned().referenced) {
        return Err(Refused::NoRoom);
    }
    let target = guard::target(uri, client.allows_any_port()).map_err(Refused::Fetch)?;
    let wish = Wish { accept: "application/tnauthlist", max_body: TnAuthList::MAX_OCTETS, timeout };
    let Body { bytes, fresh } = client.body(&target, wish).await.map_err(Refused::Fetch)?;
    let list = TnAuthList::from_der(&bytes).map_err(Refused::Reference)?;
    let unix = crate::node::clock::unix();
    let life = fresh.map_or(3600, seconds).clamp(60, 86_400);
    let fresh_until = unix.saturating_add(life).min(not_after);
    tracing::info!(%uri, fresh_until, hash = crate::cert::hex(&sct::sha256(&bytes)), "a TNAuthList by reference has been learned");
    let is_known = desk.learned().referenced.get(uri).is_some_and(|known| known.list == list);
    // Verdicts that rest on the same list hold, as long as they were to hold.
    let verdicts = if is_known { Verdicts::Hold } else { Verdicts::AreMadeAnew };
    let list = Arc::new(ReferencedList { list, fresh_until });
    let mut is_taken = false;
    desk.learn(verdicts, |learned| {
        is_taken = has_room(&learned.referenced); // others were fetched meanwhile
        if is_taken {
            learned.referenced = learned.referenced.with(uri, list);
        }
    });
    if !is_taken {
        return Err(Refused::NoRoom);
    }
    Ok((fresh_until.saturating_sub(unix) * 8 / 10).max(30))
}
