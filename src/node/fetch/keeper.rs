//! CRLs, TNAuthLists by reference, the list of authorities, the list of logs: fetched in the background, anew before they are out of date, and
//! learned by all workers at once. What can not be had anew stays as long as it counts; nobody waits for any of it.

mod look;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

pub(super) use look::{FirstLook, fetch_lists, restore};
use look::{Reach, anchors, crl, grace, logs, reference, report};

use super::client::Client;
use super::{Config, FetchError, guard};
use crate::cert::{CrlError, ListKey, LogListError, SignedListError, TnAuthListError};
use crate::node::trust::{Desk, Verdicts};
use crate::stir::verification::Credential;

/// Where a list is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file; read anew as often as a URL would be.
    File(PathBuf),
    /// An https URL.
    Url(String),
}

/// A list that is kept up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSource {
    /// Where it is.
    pub place: Place,
    /// Whose signature it carries; without a key it is a plain text, believed because of where it comes from.
    pub key: Option<ListKey>,
}

/// The STI-PA's list of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorSource {
    /// Where it is.
    pub place: Place,
    /// Whose signature it carries.
    pub key: ListKey,
    /// How long it counts after its `exp`; 72 h.
    pub grace: Duration,
}

/// Settings for what is kept up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperConfig {
    /// The list of authorities.
    pub anchors: Option<AnchorSource>,
    /// The list of transparency logs.
    pub logs: Option<ListSource>,
    /// How often lists are looked at; 1 h.
    pub list_interval: Duration,
    /// CRLs that are fetched from the start on; others when a certificate names them.
    pub crl_urls: Vec<String>,
    /// Certificates (DER) that sign indirect CRLs, besides the trust anchors.
    pub crl_issuers: Vec<Vec<u8>>,
    /// The longest time between two looks at a CRL; 1 h.
    pub crl_interval: Duration,
    /// Octets of a CRL; 8 MiB.
    pub max_crl: usize,
    /// Entries of a CRL; 500,000.
    pub max_crl_entries: usize,
    /// CRLs, and likewise TNAuthLists by reference, that are kept up to date; 64.
    pub max_lists: usize,
}

impl ListSource {
    /// What was believed of one is believed of the other: the same key signs, or, without a key, it comes from the same place.
    fn is_believed_like(&self, other: &Self) -> bool {
        self.key == other.key && (self.key.is_some() || self.place == other.place)
    }
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self {
            anchors: None,
            logs: None,
            list_interval: Duration::from_secs(3600),
            crl_urls: Vec::new(),
            crl_issuers: Vec::new(),
            crl_interval: Duration::from_secs(3600),
            max_crl: 8 * 1024 * 1024,
            max_crl_entries: 500_000,
            max_lists: 64,
        }
    }
}

/// Octets of a list of authorities or logs.
const MAX_LIST: usize = 4 * 1024 * 1024;
/// For fetching one of these lists: nobody waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// For fetching a TNAuthList while a call waits for its chain.
const REFERENCE_PATIENCE: Duration = Duration::from_secs(1);
/// First wait after a failure; doubled each time, up to sixteenfold.
const RETRY: i64 = 30;
/// Clock skew, as everywhere.
const SKEW: i64 = 60;
/// File names in the state directory.
const ANCHORS_FILE: &str = "anchors.jwt";
const LOGS_FILE: &str = "logs.json";

/// What is kept up to date.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    Anchors,
    Logs,
    Crl(Arc<str>),
    Reference(Arc<str>),
}

impl What {
    fn describe(&self) -> (&'static str, &str) {
        match self {
            Self::Anchors => ("list of authorities", ""),
            Self::Logs => ("list of logs", ""),
            Self::Crl(url) => ("CRL", url),
            Self::Reference(uri) => ("TNAuthList", uri),
        }
    }
}

#[derive(Default)]
struct Tracked {
    /// When it is looked at next, Unix seconds.
    due: i64,
    failures: u32,
    is_under_way: bool,
    /// Once more when what is under way has ended: it began under what does not hold any more.
    is_again: bool,
    /// Certificates of issuers that may have signed this CRL, from validated paths.
    issuers: Vec<Arc<[u8]>>,
    /// A TNAuthList by reference counts no longer than the certificate that names it.
    not_after: i64,
}

impl Tracked {
    fn look_now(&mut self) {
        self.due = 0;
        self.is_again = self.is_under_way;
    }
}

/// Why something could not be learned.
#[derive(Debug)]
enum Refused {
    Fetch(FetchError),
    File(std::io::Error),
    Anchors(SignedListError),
    Logs(LogListError),
    Crl(CrlError),
    Reference(TnAuthListError),
    NoRoom,
    Panicked,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fetch(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::Anchors(error) => error.fmt(f),
            Self::Logs(error) => error.fmt(f),
            Self::Crl(error) => error.fmt(f),
            Self::Reference(error) => error.fmt(f),
            Self::NoRoom => f.write_str("no room: stir.crl.max_crls are at hand"),
            Self::Panicked => f.write_str("it made the reader panic"),
        }
    }
}

/// Seconds to the next look, after something has been learned.
type Learned = Result<i64, Refused>;

pub(super) struct Keeper {
    config: Arc<Config>,
    client: Arc<Client>,
    desk: Arc<Desk>,
    tracked: HashMap<What, Tracked>,
    jobs: JoinSet<(What, Learned)>,
}

impl Keeper {
    pub fn new(config: &Config, client: Arc<Client>, desk: Arc<Desk>) -> Self {
        let mut keeper = Self { config: Arc::default(), client, desk, tracked: HashMap::new(), jobs: JoinSet::new() };
        keeper.configure(config.clone());
        keeper
    }

    /// Goes on with other settings. What was good last takes the place of what has to be fetched first.
    pub fn configure(&mut self, config: Config) {
        let kept = &config.keeper;
        let mut wanted: Vec<What> = kept.crl_urls.iter().map(|url| What::Crl(url.as_str().into())).collect();
        wanted.extend(kept.anchors.iter().map(|_| What::Anchors));
        wanted.extend(kept.logs.iter().map(|_| What::Logs));
        let (has_anchors, has_logs) = (kept.anchors.is_some(), kept.logs.is_some());
        self.tracked.retain(|what, _| match what {
            What::Anchors => has_anchors,
            What::Logs => has_logs,
            What::Crl(_) | What::Reference(_) => true,
        });
        let old = std::mem::replace(&mut self.config, config.into());
        self.forget_disowned(&old.keeper);
        for what in wanted {
            self.tracked.entry(what).or_default().look_now();
        }
        restore(&self.config, &self.desk);
    }

    /// What another key signed, or, unsigned, came from another place, counts no more, nor does its number.
    fn forget_disowned(&mut self, old: &KeeperConfig) {
        let new = &self.config.keeper;
        let keeps_anchors =
            old.anchors.as_ref().is_none_or(|old| new.anchors.as_ref().is_some_and(|new| new.key == old.key));
        let keeps_logs =
            old.logs.as_ref().is_none_or(|old| new.logs.as_ref().is_some_and(|new| new.is_believed_like(old)));
        if keeps_anchors && keeps_logs {
            return;
        }
        // Looks that began under the old settings must teach nothing any more; what they were for is looked at anew.
        self.jobs = JoinSet::new();
        let begun = self.tracked.values_mut().filter(|tracked| tracked.is_under_way);
        begun.for_each(|tracked| (tracked.is_under_way, tracked.is_again, tracked.due) = (false, false, 0));
        self.desk.learn(Verdicts::AreMadeAnew, |learned| {
            learned.anchors = learned.anchors.take().filter(|_| keeps_anchors);
            learned.logs = learned.logs.take().filter(|_| keeps_logs);
        });
    }

    /// A credential lacks a CRL or a list by reference: from now on it is kept up to date.
    pub fn want(&mut self, credential: &Credential) {
        let Ok(chain) = &credential.chain else { return };
        for certificate in chain.revocable() {
            for url in certificate.urls().filter(|url| guard::target(url, self.config.allow_any_port).is_ok()) {
                let what = What::Crl(url.into());
                if !self.has_room(&what) {
                    continue;
                }
                let tracked = self.tracked.entry(what).or_default();
                let issuer = certificate.issuer_der();
                if !tracked.issuers.contains(issuer) && tracked.issuers.len() < 8 {
                    tracked.issuers.push(Arc::clone(issuer));
                    tracked.look_now();
                }
            }
        }
        for uri in chain.missing_lists() {
            let what = What::Reference(uri.as_str().into());
            if self.has_room(&what) {
                let tracked = self.tracked.entry(what).or_default();
                tracked.not_after = tracked.not_after.max(chain.leaf.not_after());
            }
        }
    }

    /// A list by reference was fetched with the chain that names it: it is kept up to date like others.
    pub fn adopt(&mut self, look: FirstLook) {
        let FirstLook { uri, not_after, due } = look;
        let what = What::Reference(uri);
        if self.has_room(&what) {
            let tracked = self.tracked.entry(what).or_default();
            tracked.not_after = tracked.not_after.max(not_after);
            tracked.due = due;
        }
    }

    /// How many TNAuthLists by reference may be at hand.
    pub fn max_lists(&self) -> usize {
        self.config.keeper.max_lists
    }

    fn has_room(&self, what: &What) -> bool {
        let is_same = |other: &&What| std::mem::discriminant(*other) == std::mem::discriminant(what);
        let has = self.tracked.contains_key(what)
            || self.tracked.keys().filter(is_same).count() < self.config.keeper.max_lists;
        if !has {
            tracing::debug!(what = what.describe().0, url = what.describe().1, "no room to keep it up to date");
        }
        has
    }

    /// Begins what is due, and drops what counts no more.
    pub fn tick(&mut self, unix: i64) {
        self.expire(unix);
        let due: Vec<What> = self
            .tracked
            .iter()
            .filter(|(_, tracked)| tracked.due <= unix && !tracked.is_under_way)
            .map(|(what, _)| what.clone())
            .collect();
        for what in due {
            let Some(tracked) = self.tracked.get_mut(&what) else { continue };
            tracked.is_under_way = true;
            let (client, desk, config) = (Arc::clone(&self.client), Arc::clone(&self.desk), Arc::clone(&self.config));
            let (issuers, not_after) = (tracked.issuers.clone(), tracked.not_after);
            self.jobs.spawn(async move {
                let learned = match &what {
                    What::Anchors => anchors(&config, &client, &desk, unix).await,
                    What::Logs => logs(&config, &client, &desk).await,
                    What::Crl(url) => crl(url, issuers, &config, &client, &desk, unix).await,
                    What::Reference(uri) => {
                        let reach = Reach { not_after, max: config.keeper.max_lists, timeout: PATIENCE };
                        reference(uri, reach, &client, &desk).await
                    }
                };
                (what, learned)
            });
        }
    }

    fn expire(&mut self, unix: i64) {
        let learned = self.desk.learned();
        if let (Some(list), Some(source)) = (&learned.anchors, &self.config.keeper.anchors)
            && let Err(error) = list.check_expiry(unix, grace(source))
        {
            tracing::error!(%error, "the list of authorities counts no more, its grace is over: its anchors are not trusted any longer");
            self.desk.learn(Verdicts::AreMadeAnew, |learned| learned.anchors = None);
        }
        // All that are at hand, kept up to date or not: nothing counts longer than its time (RFC 9060 12, C4.8).
        let over = learned.referenced.iter().filter(|(_, list)| list.fresh_until <= unix);
        let over: Vec<Arc<str>> = over.map(|(uri, _)| uri.into()).collect();
        if !over.is_empty() {
            self.desk.learn(Verdicts::AreMadeAnew, |learned| {
                learned.referenced = over.iter().fold(learned.referenced.clone(), |lists, uri| lists.without(uri));
            });
        }
        // Whoever still needs it asks again.
        self.tracked.retain(|what, tracked| match what {
            What::Reference(uri) => tracked.is_under_way || tracked.not_after > unix && !over.contains(uri),
            _ => true,
        });
    }

    /// Waits for something that ends; for ever while nothing is under way.
    pub async fn work(&mut self) {
        let Some(ended) = self.jobs.join_next().await else { return std::future::pending().await };
        let Ok((what, learned)) = ended else {
            tracing::error!("a look at a list panicked");
            self.tracked.values_mut().for_each(|tracked| tracked.is_under_way = false);
            return;
        };
        let unix = crate::node::clock::unix();
        let Some(tracked) = self.tracked.get_mut(&what) else { return };
        tracked.is_under_way = false;
        match report(&what, learned) {
            Some(seconds) => {
                tracked.failures = 0;
                tracked.due = unix.saturating_add(seconds.max(1));
            }
            None => {
                tracked.due = unix.saturating_add(RETRY << tracked.failures.min(4));
                tracked.failures = tracked.failures.saturating_add(1);
            }
        }
        if std::mem::take(&mut tracked.is_again) {
            tracked.due = 0;
        }
    }

    /// Looks at everything now.
    pub fn hurry(&mut self) {
        self.tracked.values_mut().for_each(Tracked::look_now);
    }
}
