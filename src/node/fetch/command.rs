//! What operators see of the cache and do to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::cache::{Entry, Source};
use super::door::{Door, Moment, Standings};
use super::guard;
use super::keeper::Keeper;
use crate::cert::{Certificate, certificates_from_pem_or_der};
use crate::node::clock;
use crate::node::trust::{Desk, Verdicts};

/// An order of an operator's; the answer goes back unless nobody waits for it.
pub(in crate::node) enum Command {
    List { host: Option<String>, limit: usize, answer: oneshot::Sender<Vec<CacheEntry>> },
    Import { x5u: String, pem: String, answer: oneshot::Sender<Result<CacheEntry, String>> },
    Purge { which: Which, answer: oneshot::Sender<usize> },
}

/// What is purged.
#[derive(Clone, Debug)]
pub(in crate::node) enum Which {
    Url(String),
    Host(String),
    All,
}

/// An entry of the cache in the answer to `cache list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // as docs/operation.md describes
pub struct CacheEntry {
    pub x5u: String,
    /// `fresh`, `stale`, or `failed`.
    pub state: String,
    /// Subject of the leaf.
    pub subject: Option<String>,
    /// Service provider codes of the leaf.
    pub spc: Vec<String>,
    pub not_after: Option<i64>,
    pub fresh_until: i64,
    /// Leads to a trust anchor.
    pub trusted: bool,
    /// `fetched`, `imported`, `restored`.
    pub source: String,
    /// Answers given from it since it came.
    pub hits: u64,
    /// `up`, `down`, `probed`.
    pub host: String,
    /// Why there is no chain.
    pub error: Option<String>,
}

pub(super) fn obey<W>(command: Command, door: &mut Door<W>, keeper: &mut Keeper, desk: &Desk, now: Moment) {
    match command {
        Command::List { host, limit, answer } => {
            let (entries, standings) = (door.cache.all().collect(), door.standings(now));
            // Reading every certificate takes its time: not that of calls.
            tokio::task::spawn_blocking(move || {
                let _ = answer.send(list(entries, &standings, host.as_deref(), limit, now));
            });
        }
        Command::Import { x5u, pem, answer } => {
            let imported = import(door, desk, &x5u, &pem, now);
            if imported.is_ok() {
                forget_verdicts(desk);
            }
            let _ = answer.send(imported);
        }
        Command::Purge { which, answer } => {
            let purged = purge(door, &which);
            // Workers ask again: for what was purged here, and for what they alone still had.
            forget_verdicts(desk);
            keeper.hurry();
            let _ = answer.send(purged);
        }
    }
}

fn forget_verdicts(desk: &Desk) {
    desk.learn(Verdicts::AreMadeAnew, |_| {});
}

fn host_of(url: &str) -> Option<String> {
    guard::target(url, true).ok().map(|target| target.host.trim_end_matches('.').to_ascii_lowercase())
}

fn list(
    mut entries: Vec<(Arc<str>, Arc<Entry>)>,
    standings: &Standings,
    host: Option<&str>,
    limit: usize,
    now: Moment,
) -> Vec<CacheEntry> {
    let host = host.map(str::to_ascii_lowercase);
    let is_meant = |url: &str| host.is_none() || host_of(url) == host;
    entries.retain(|(url, entry)| is_meant(url) && entry.usable_until > now.unix);
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    entries.truncate(limit);
    entries.iter().map(|(url, entry)| describe(standings.of(url), url, entry, now)).collect()
}

fn describe(host: &str, url: &str, entry: &Entry, now: Moment) -> CacheEntry {
    let leaf = entry.answer.as_ref().ok().and_then(|chain| chain.first());
    let leaf = leaf.and_then(|der| Certificate::from_der(der).ok());
    let list = leaf.as_ref().and_then(|leaf| leaf.tn_auth_list()?.ok());
    let state = match &entry.answer {
        Err(_) => "failed",
        Ok(_) if now.unix < entry.fresh_until => "fresh",
        Ok(_) => "stale",
    };
    CacheEntry {
        x5u: url.to_owned(),
        state: state.to_owned(),
        subject: leaf.as_ref().map(Certificate::subject),
        spc: list.map(|list| list.spcs().map(str::to_owned).collect()).unwrap_or_default(),
        not_after: leaf.as_ref().map(Certificate::not_after),
        fresh_until: entry.fresh_until,
        trusted: entry.is_trusted,
        source: entry.source.name().to_owned(),
        hits: entry.hits.load(Ordering::Relaxed),
        host: host.to_owned(),
        error: entry.answer.as_ref().err().map(ToString::to_string),
    }
}

/// A chain is taken only if it leads to a trust anchor now.
fn import<W>(door: &mut Door<W>, desk: &Desk, x5u: &str, pem: &str, now: Moment) -> Result<CacheEntry, String> {
    guard::target(x5u, true).map_err(|error| format!("{x5u}: {error}"))?;
    let chain = certificates_from_pem_or_der(pem.as_bytes()).into_iter().collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| error.to_string())?;
    let judged = desk.current().assess(&chain);
    let verdict = judged.as_ref().map_err(ToString::to_string)?;
    verdict.path.as_ref().map_err(ToString::to_string)?;
    verdict.validity(now.unix, 0).map_err(|error| error.to_string())?;
    let (url, end): (Arc<str>, _) = (x5u.into(), verdict.not_after);
    door.insert(&url, Entry::chain(chain.into(), Source::Imported, clock::unix()).imported(end));
    let (_, entry) = door.cache.all().find(|(known, _)| *known == url).ok_or("the cache has no room for it")?;
    Ok(describe(door.standings(now).of(&url), &url, &entry, now))
}

fn purge<W>(door: &mut Door<W>, which: &Which) -> usize {
    let is_meant = |url: &str| match which {
        Which::Url(meant) => url == meant,
        Which::Host(host) => host_of(url).as_deref() == Some(&host.to_ascii_lowercase()),
        Which::All => true,
    };
    let urls: Vec<Arc<str>> = door.cache.all().map(|(url, _)| url).filter(|url| is_meant(url)).collect();
    urls.iter().filter(|url| door.cache.remove(url)).count()
}
