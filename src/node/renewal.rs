//! The end of signers' certificates is told long before it comes; files that were replaced are noticed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// A certificate that ends in this time, for one that lives long.
const DAYS: [i64; 3] = [30 * 86_400, 7 * 86_400, 86_400];
/// The same for one that lives shorter than [`LONG`]: the lifetime divided by these.
const PARTS: [i64; 3] = [3, 10, 30];
const LONG: i64 = 90 * 86_400;

/// A signer's certificate chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Name of the signer.
    pub signer: String,
    /// Since when the leaf is valid, Unix seconds.
    pub not_before: i64,
    /// When it signs no more, Unix seconds.
    pub not_after: i64,
}

/// Something to tell about a signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It ends soon.
    Ends {
        /// Name of the signer.
        signer: String,
        /// Seconds left.
        seconds: i64,
    },
    /// It has ended: it signs no more.
    Ended {
        /// Name of the signer.
        signer: String,
    },
}

/// What was told of each signer.
#[derive(Debug, Default)]
pub struct Reminder {
    /// The end that was spoken of, and how many of the thresholds had passed.
    told: HashMap<String, (i64, usize)>,
}

impl Reminder {
    /// What is to be told now: once for each threshold that has passed since the last look.
    pub fn look(&mut self, now: i64, lives: &[Life]) -> Vec<Notice> {
        self.told.retain(|name, _| lives.iter().any(|life| life.signer == *name));
        let mut notices = Vec::new();
        for life in lives {
            let seconds = life.not_after.saturating_sub(now);
            let passed = thresholds(life).iter().filter(|threshold| seconds <= **threshold).count();
            let level = passed + usize::from(seconds < 0);
            let before = self.told.insert(life.signer.clone(), (life.not_after, level));
            let known = before.filter(|(end, _)| *end == life.not_after).map_or(0, |(_, level)| level);
            if level > known {
                let signer = life.signer.clone();
                notices.push(if seconds < 0 { Notice::Ended { signer } } else { Notice::Ends { signer, seconds } });
            }
        }
        notices
    }
}

/// Seconds before the end at which something is told.
fn thresholds(life: &Life) -> [i64; 3] {
    let lifetime = life.not_after.saturating_sub(life.not_before);
    if lifetime >= LONG { DAYS } else { PARTS.map(|part| lifetime / part) }
}

/// What tells one content of a file from another without reading it.
type Stamp = Option<(i64, i64, u64, u64)>;

/// A file that may be replaced, and how it stood at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watched {
    path: PathBuf,
    stamp: Stamp,
}

impl Watched {
    /// As it stands now: whoever reads it does so afterwards, so that what takes its place meanwhile is noticed.
    pub fn now(path: PathBuf) -> Self {
        let stamp = stamp(&path);
        Self { path, stamp }
    }
}

/// Files that may be replaced.
#[derive(Debug, Default)]
pub struct Watch {
    files: Vec<Watched>,
    /// As they were at the last look; a change counts once it has held for two looks, for files are not written at once.
    last: Vec<Stamp>,
}

impl Watch {
    /// Watches these files: what is not as it was then has been replaced.
    pub fn new(files: &[Watched]) -> Self {
        let mut files = files.to_vec();
        files.sort_unstable();
        files.dedup_by(|one, other| {
            let is_same = one.path == other.path;
            if is_same && one.stamp != other.stamp {
                other.stamp = None; // replaced between two readings: it is to be told, whichever it is now
            }
            is_same
        });
        let last = files.iter().map(|file| file.stamp).collect();
        Self { files, last }
    }

    /// The files that have changed since they were last told, and have come to rest.
    pub fn look(&mut self) -> Vec<PathBuf> {
        let now: Vec<Stamp> = self.files.iter().map(|file| stamp(&file.path)).collect();
        let rests = now == std::mem::replace(&mut self.last, now.clone());
        if !rests {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for (file, now) in self.files.iter_mut().zip(now) {
            if file.stamp != now {
                file.stamp = now;
                changed.push(file.path.clone());
            }
        }
        changed
    }
}

/// Symbolic links are followed: what many tools turn is the link.
fn stamp(file: &PathBuf) -> Stamp {
    let data = std::fs::metadata(file).ok()?;
    Some((data.mtime(), data.mtime_nsec(), data.ino(), data.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn life(not_before: i64, not_after: i64) -> Vec<Life> {
        vec![Life { signer: "acme".into(), not_before, not_after }]
    }

    #[test]
    fn a_year_is_told_at_30_7_and_1_days_and_at_the_end() {
        let (mut reminder, year) = (Reminder::default(), life(0, 365 * DAY));
        let mut told = Vec::new();
        for hour in 0..366 * 24 + 48 {
            told.extend(reminder.look(hour * 3600, &year).into_iter().map(|notice| (hour / 24, notice)));
        }
        let ends = |seconds| Notice::Ends { signer: "acme".into(), seconds };
        assert_eq!(
            told,
            [
                (335, ends(30 * DAY)),
                (358, ends(7 * DAY)),
                (364, ends(DAY)),
                (365, Notice::Ended { signer: "acme".into() })
            ]
        );
    }

    #[test]
    fn a_day_is_told_by_its_parts_and_a_new_leaf_begins_anew() {
        let mut reminder = Reminder::default();
        let day = life(0, DAY);
        assert_eq!(reminder.look(DAY / 2, &day), []);
        assert_eq!(reminder.look(DAY - DAY / 3, &day).len(), 1);
        assert_eq!(reminder.look(DAY - DAY / 4, &day), []);
        assert_eq!(reminder.look(DAY - DAY / 4, &life(0, 2 * DAY)), []);
        assert_eq!(reminder.look(2 * DAY - 60, &life(0, 2 * DAY)).len(), 1, "one line, not one for each threshold");
        assert_eq!(reminder.look(3 * DAY, &[]), []);
        assert_eq!(reminder.look(3 * DAY, &day), [Notice::Ended { signer: "acme".into() }]);
    }

    #[test]
    fn a_file_that_was_replaced_is_told_once_it_rests() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("leaf.pem"), directory.path().join("key.pem"));
        std::fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(&[&file, &other, &file].map(|path| Watched::now(path.clone())));
        assert_eq!(watch.look(), Vec::<PathBuf>::new());
        std::fs::write(directory.path().join("new"), "another").unwrap();
        std::fs::rename(directory.path().join("new"), &file).unwrap();
        assert_eq!(watch.look(), Vec::<PathBuf>::new(), "it may go on changing");
        assert_eq!(watch.look(), std::slice::from_ref(&file));
        assert_eq!(watch.look(), Vec::<PathBuf>::new());
        std::fs::write(&other, "key").unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(watch.look(), Vec::<PathBuf>::new());
        assert_eq!(watch.look(), [other, file]);
    }

    #[test]
    fn a_file_that_was_replaced_after_it_was_read_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (file, twice) = (directory.path().join("leaf.pem"), directory.path().join("key.pem"));
        let put = |path: &PathBuf, text: &str| std::fs::write(path, text).unwrap();
        put(&file, "one");
        put(&twice, "one");
        let mut read = vec![Watched::now(file.clone()), Watched::now(twice.clone())];
        put(&file, "another");
        put(&twice, "another");
        read.push(Watched::now(twice.clone())); // for another signer
        let mut watch = Watch::new(&read);
        assert_eq!(watch.look(), Vec::<PathBuf>::new());
        assert_eq!(watch.look(), [twice, file]);
        assert_eq!(watch.look(), Vec::<PathBuf>::new());
    }
}
