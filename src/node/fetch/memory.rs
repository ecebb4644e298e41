//! The cache over a restart: one file, written anew and put in the other's place. Nothing in it is believed: a chain that is read back counts
//! for what path validation makes of it, now and at each use.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::cache::{Entry, Source};
use super::door::{Door, Moment};
use super::{Config, guard};
use crate::node::trust::Desk;

/// Name of the file in the state directory.
const FILE: &str = "certificates.json";
/// Version of its layout. One of another version is as good as none.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    entries: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    x5u: String,
    /// DER in base64, leaf first.
    chain: Vec<String>,
    /// Unix seconds.
    since: i64,
    fresh_until: i64,
    imported: bool,
}

pub(super) struct Memory {
    config: Config,
    desk: Arc<Desk>,
    /// Pages made.
    pages: u64,
    written: Arc<Mutex<Written>>,
}

impl Memory {
    pub fn new(config: &Config, desk: Arc<Desk>) -> Self {
        Self { config: config.clone(), desk, pages: 0, written: Arc::default() }
    }

    fn path(&self) -> Option<PathBuf> {
        self.config.state_directory.as_ref().map(|directory| directory.join(FILE))
    }

    /// Puts what an earlier life left behind into the cache.
    pub fn restore<W>(&mut self, door: &mut Door<W>, now: Moment) {
        let Some(path) = self.path() else { return };
        let document = match read(&path, self.limit()) {
            Ok(Some(document)) => document,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the kept certificates can not be read; beginning without");
                return;
            }
        };
        let trust = self.desk.current();
        let (mut restored, mut left_out) = (0, 0);
        for kept in document.entries {
            match self.judge(&trust, &kept, now.unix) {
                Some(entry) => {
                    door.insert(&kept.x5u.into(), entry);
                    restored += 1;
                }
                None => left_out += 1,
            }
        }
        tracing::info!(restored, left_out, "certificates kept from before");
    }

    fn judge(&self, trust: &crate::cert::TrustStore, kept: &Kept, unix: i64) -> Option<Entry> {
        guard::target(&kept.x5u, self.config.allow_any_port).ok()?;
        let chain: Vec<Vec<u8>> = kept.chain.iter().map(|der| STANDARD.decode(der).ok()).collect::<Option<_>>()?;
        let judged = trust.assess(&chain);
        let verdict = judged.as_ref().ok()?;
        verdict.path.as_ref().ok()?;
        let end = if kept.imported { verdict.not_after } else { verdict.holds_until() };
        let source = if kept.imported { Source::Imported } else { Source::Restored };
        let entry = Entry::chain(chain.into(), source, kept.since.min(unix));
        // No longer than settings, certificates and what was said then allow.
        let fresh = kept.fresh_until.saturating_sub(entry.since);
        let fresh = std::time::Duration::from_secs(u64::try_from(fresh).ok()?);
        let entry = if kept.imported { entry.imported(end) } else { entry.limited(Some(fresh), end, &self.config) };
        (entry.usable_until > unix && end > unix).then_some(entry)
    }

    /// No file is written, or read, that is larger.
    fn limit(&self) -> u64 {
        self.config.cache_bytes.saturating_mul(2)
    }

    /// What there is to write down. Writing takes its time: not that of the thread that answers calls.
    pub fn page<W>(&mut self, door: &Door<W>, unix: i64) -> Option<Page> {
        let path = self.path()?;
        self.pages += 1;
        let entries = door.cache.all().collect();
        Some(Page { path, limit: self.limit(), number: self.pages, unix, entries, written: Arc::clone(&self.written) })
    }
}

/// What was written last.
#[derive(Default)]
struct Written {
    /// Number of the page.
    number: u64,
    /// Entries, and the sum of their times.
    mark: Option<[u64; 2]>,
}

/// The cache at a time, on its way to the file.
pub(super) struct Page {
    path: PathBuf,
    limit: u64,
    number: u64,
    unix: i64,
    entries: Vec<(Arc<str>, Arc<Entry>)>,
    written: Arc<Mutex<Written>>,
}

impl Page {
    /// Writes the cache down if it has changed, unless a later page was faster.
    pub fn write(self) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if self.number <= written.number {
            return;
        }
        let (mut entries, mut octets) = (Vec::new(), 0u64);
        let mut all = self.entries;
        all.retain(|(_, entry)| entry.is_trusted && entry.usable_until > self.unix);
        // Most used first, should there be too many.
        all.sort_by_key(|(url, entry)| (std::cmp::Reverse(entry.hits.load(Ordering::Relaxed)), Arc::clone(url)));
        let mut mark = [all.len() as u64, 0];
        for (url, entry) in all {
            let Ok(chain) = &entry.answer else { continue };
            let chain: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
            octets += chain.iter().map(String::len).sum::<usize>() as u64 + url.len() as u64 + 128;
            if octets > self.limit {
                break;
            }
            mark[1] = mark[1].wrapping_add(entry.fresh_until.unsigned_abs());
            let imported = entry.source == Source::Imported;
            let (since, fresh_until) = (entry.since, entry.fresh_until);
            entries.push(Kept { x5u: url.to_string(), chain, since, fresh_until, imported });
        }
        written.number = self.number;
        if written.mark == Some(mark) {
            return;
        }
        let text = serde_json::to_vec(&Document { version: VERSION, entries }).unwrap_or_default();
        match write(&self.path, &text) {
            Ok(()) => written.mark = Some(mark),
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "certificates can not be kept"),
        }
    }
}

fn read(path: &Path, limit: u64) -> io::Result<Option<Document>> {
    let length = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > limit {
        return Err(io::Error::other("the file is too large"));
    }
    let document: Document = serde_json::from_slice(&fs::read(path)?)?;
    if document.version != VERSION {
        return Err(io::Error::other(format!("version {}, not {VERSION}", document.version)));
    }
    Ok(Some(document))
}

/// Writes a file as a whole or not at all, for its owner's eyes.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The directory is there, or can be made, and can be written to.
pub(super) fn check(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    tempfile::tempfile_in(directory).map(drop)
}
