//! The shared memory of the side door: what each `x5u` answered, for how long that holds, and whether it is still asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache as Memory;

use super::{Chain, Config, FetchError};

/// Octets that an entry takes besides its certificates and its URL, near enough.
const OVERHEAD: usize = 256;

/// Where an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Its server.
    Fetched,
    /// An operator.
    Imported,
    /// The file of an earlier life.
    Restored,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Imported => "imported",
            Self::Restored => "restored",
        }
    }
}

/// A kept answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub answer: Result<Arc<[Vec<u8>]>, FetchError>,
    pub source: Source,
    /// When it came, Unix seconds.
    pub since: i64,
    /// First second at which it is asked for anew.
    pub fresh_until: i64,
    /// First second at which it serves no more; not before `fresh_until`.
    pub usable_until: i64,
    /// The chain leads to a trust anchor. What does not is kept like a failure: shortly, and not in the file.
    pub is_trusted: bool,
    /// Answers given from it.
    pub hits: AtomicU64,
    /// First second at which a refresh that failed may be tried again.
    pub retry_at: AtomicU64,
}

/// How an entry serves at a moment.
#[derive(Debug)]
pub(super) enum Found {
    Fresh(Arc<Entry>),
    /// It serves, and is to be asked for anew.
    Stale(Arc<Entry>),
}

impl Entry {
    pub fn chain(certificates: Arc<[Vec<u8>]>, source: Source, since: i64) -> Self {
        Self {
            answer: Ok(certificates),
            source,
            since,
            fresh_until: since,
            usable_until: since,
            is_trusted: true,
            hits: AtomicU64::new(0),
            retry_at: AtomicU64::new(0),
        }
    }

    pub fn failure(error: FetchError, since: i64, config: &Config) -> Self {
        let until = since.saturating_add_unsigned(config.negative_ttl.as_secs());
        let entry = Self::chain(Arc::default(), Source::Fetched, since);
        Self { answer: Err(error), is_trusted: false, fresh_until: until, usable_until: until, ..entry }
    }

    /// Sets the limits: what the server says within the bounds of the settings, never past the leaf's validity. `http` is how long the
    /// server says the answer stays fresh from now on.
    pub fn limited(mut self, http: Option<Duration>, not_after: i64, config: &Config) -> Self {
        let wanted = http.unwrap_or(config.max_ttl).clamp(config.min_ttl, config.max_ttl.max(config.min_ttl));
        let negative = self.since.saturating_add_unsigned(config.negative_ttl.as_secs());
        // A leaf that is over is kept like a failure, so that its replacement is seen soon; so is a chain nobody trusts.
        if not_after <= self.since || !self.is_trusted {
            (self.fresh_until, self.usable_until) = (negative, negative);
            return self;
        }
        self.fresh_until = self.since.saturating_add_unsigned(wanted.as_secs()).min(not_after);
        self.usable_until = self.fresh_until.saturating_add_unsigned(config.stale.as_secs()).min(not_after);
        self
    }

    /// Given by an operator: it serves to the end of its validity.
    pub fn imported(mut self, not_after: i64) -> Self {
        (self.fresh_until, self.usable_until) = (not_after, not_after);
        self
    }

    /// When it is to be fetched anew if it is still used: some time before it stops being fresh.
    pub fn refresh_at(&self, config: &Config) -> i64 {
        let life = self.fresh_until.saturating_sub(self.since).max(0);
        self.since.saturating_add(life.saturating_mul(i64::from(config.prefetch_percent)) / 100)
    }

    /// It is fetched anew while it serves: not a failure, nor what an operator has given.
    pub fn is_renewed(&self) -> bool {
        self.is_trusted && self.source != Source::Imported
    }

    pub fn is_used(&self) -> bool {
        self.hits.load(Ordering::Relaxed) > 0
    }

    /// As it is given to a worker: stale, it is to be asked for again soon.
    pub fn answer(&self, unix: i64, config: &Config) -> Result<Chain, FetchError> {
        let certificates = self.answer.clone()?;
        let soon = unix.saturating_add_unsigned(config.negative_ttl.as_secs());
        let fresh_until = if unix < self.fresh_until { self.fresh_until } else { soon.min(self.usable_until) };
        Ok(Chain { certificates, fresh_until })
    }

    pub fn octets(&self, url: &str) -> usize {
        let chain: usize = self.answer.as_ref().map_or(0, |chain| chain.iter().map(Vec::len).sum());
        url.len() + chain + OVERHEAD
    }
}

struct Housekeeping;

impl Expiry<Arc<str>, Arc<Entry>> for Housekeeping {
    fn expire_after_create(&self, _: &Arc<str>, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        // Memory is given back a little after the last use there could be; whether an entry serves is judged on each look.
        Some(Duration::from_secs(entry.usable_until.saturating_sub(entry.since).max(0).unsigned_abs() + 60))
    }

    fn expire_after_update(
        &self,
        url: &Arc<str>,
        entry: &Arc<Entry>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(url, entry, now)
    }
}

/// Entries by URL, bounded in octets; what is asked for often stays longest.
pub(super) struct Cache {
    memory: Memory<Arc<str>, Arc<Entry>>,
}

impl Cache {
    pub fn new(config: &Config) -> Self {
        let weigher = |url: &Arc<str>, entry: &Arc<Entry>| u32::try_from(entry.octets(url)).unwrap_or(u32::MAX);
        let builder = Memory::builder().max_capacity(config.cache_bytes).weigher(weigher);
        Self { memory: builder.expire_after(Housekeeping).build() }
    }

    /// What serves at `unix`.
    pub fn get(&self, url: &str, unix: i64) -> Option<Found> {
        let entry = self.memory.get(url)?;
        if unix < entry.fresh_until {
            Some(Found::Fresh(entry))
        } else {
            (unix < entry.usable_until).then_some(Found::Stale(entry))
        }
    }

    pub fn put(&self, url: Arc<str>, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        self.memory.insert(url, Arc::clone(&entry));
        entry
    }

    pub fn remove(&self, url: &str) -> bool {
        self.memory.remove(url).is_some()
    }

    /// All entries, in no order.
    pub fn all(&self) -> impl Iterator<Item = (Arc<str>, Arc<Entry>)> + '_ {
        self.memory.iter().map(|(url, entry)| (Arc::clone(&*url), entry))
    }

    /// Entries and their octets.
    pub fn size(&self) -> [u64; 2] {
        self.memory.run_pending_tasks();
        [self.memory.entry_count(), self.memory.weighted_size()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_219_200;

    fn entry(http: Option<u64>, not_after: i64) -> Entry {
        let chain = Entry::chain(Arc::new([vec![1]]), Source::Fetched, NOW);
        chain.limited(http.map(Duration::from_secs), not_after, &Config::default())
    }

    #[test]
    fn lifetimes_follow_the_server_within_bounds_and_end_with_the_leaf() {
        let (far, config) = (NOW + 100 * 86_400, Config::default());
        let life = |http, not_after| entry(http, not_after).fresh_until - NOW;
        assert_eq!(life(Some(0), far), 60, "the floor");
        assert_eq!(life(Some(3600), far), 3600);
        assert_eq!(life(Some(u64::MAX), far), 86_400, "the ceiling");
        assert_eq!(life(None, far), 86_400);
        assert_eq!(life(Some(3600), NOW + 90), 90, "the leaf ends first");
        assert_eq!(life(Some(3600), NOW - 1), 30, "it is over: kept like a failure");
        let fresh = entry(Some(3600), far);
        assert_eq!(fresh.usable_until, NOW + 3600 + config.stale.as_secs() as i64);
        assert_eq!(entry(Some(3600), NOW + 3700).usable_until, NOW + 3700, "stale or not, the leaf's end is the end");
        assert_eq!(fresh.refresh_at(&config), NOW + 3600 * 80 / 100);
        assert_eq!(Entry::failure(FetchError::Resolve, NOW, &config).usable_until, NOW + 30);
        let untrusted = Entry { is_trusted: false, ..Entry::chain(Arc::new([vec![1]]), Source::Fetched, NOW) };
        assert_eq!(untrusted.limited(Some(Duration::from_secs(3600)), far, &config).usable_until, NOW + 30);
    }

    #[test]
    fn a_stale_answer_is_to_be_asked_for_again_soon() {
        let (config, cache) = (Config::default(), Cache::new(&Config::default()));
        let entry = cache.put("u".into(), entry(Some(100), NOW + 130));
        assert!(matches!(cache.get("u", NOW + 99), Some(Found::Fresh(_))));
        assert!(matches!(cache.get("u", NOW + 100), Some(Found::Stale(_))));
        assert!(cache.get("u", NOW + 130).is_none());
        assert_eq!(entry.answer(NOW, &config).unwrap().fresh_until, NOW + 100);
        assert_eq!(entry.answer(NOW + 105, &config).unwrap().fresh_until, NOW + 130);
    }

    #[test]
    fn memory_is_bounded_in_octets() {
        let config = Config { cache_bytes: 100_000, ..Config::default() };
        let cache = Cache::new(&config);
        for n in 0..1000 {
            let chain = Entry::chain(Arc::new([vec![0; 1000]]), Source::Fetched, NOW);
            cache.put(format!("https://h/{n}").into(), chain.limited(None, NOW + 1000, &config));
            if n % 50 == 0 {
                assert!(cache.size()[1] <= 100_000, "{:?}", cache.size());
            }
        }
        let [entries, octets] = cache.size();
        assert!((1..=100).contains(&entries) && octets <= 100_000, "{entries} {octets}");
    }
}
