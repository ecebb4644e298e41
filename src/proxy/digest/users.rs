//! Who may authenticate: a file of lines `user:realm:algorithm:HA1`, as `htdigest` writes them but for the algorithm. HA1 is the hash
//! of `user:realm:password` in hexadecimal digits; passwords themselves are not accepted.

use std::collections::HashMap;
use std::fmt;

use super::algorithm::{Algorithm, Hex};

/// The secrets of one user; never shown.
#[derive(Clone, Default)]
pub struct Secrets(Vec<(Algorithm, Hex)>);

impl Secrets {
    /// HA1 for an algorithm, if there is one.
    pub fn of(&self, algorithm: Algorithm) -> Option<&Hex> {
        self.0.iter().find(|(own, _)| *own == algorithm).map(|(_, hash)| hash)
    }

    /// There is a secret for each of these algorithms.
    pub fn cover(&self, algorithms: &[Algorithm]) -> bool {
        algorithms.iter().all(|algorithm| self.of(*algorithm).is_some())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(algorithm, _)| algorithm)).finish()
    }
}

/// Why a file of users can not be used; lines from 1. The lines themselves are not repeated: they hold secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsersError {
    /// Not four fields with colons between them.
    Fields {
        /// Where.
        line: usize,
    },
    /// The third field is no algorithm known here.
    Algorithm {
        /// Where.
        line: usize,
    },
    /// The last field is no hash of that algorithm: a password, perhaps.
    Hash {
        /// Where.
        line: usize,
        /// Digits it should have.
        digits: usize,
    },
    /// The same user, realm and algorithm a second time.
    Duplicate {
        /// Where.
        line: usize,
    },
    /// Nobody of this realm.
    Empty,
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields { line } => write!(f, "line {line}: give user:realm:algorithm:HA1"),
            Self::Algorithm { line } => write!(f, "line {line}: the algorithm is none of SHA-256, SHA-512-256, MD5"),
            Self::Hash { line, digits } => {
                write!(f, "line {line}: HA1 is not {digits} hexadecimal digits; give the hash of user:realm:password")
            }
            Self::Duplicate { line } => write!(f, "line {line}: this user has that algorithm already; remove one"),
            Self::Empty => write!(f, "has nobody of this realm; add a line or change the realm"),
        }
    }
}

impl std::error::Error for UsersError {}

/// Reads the users of one realm. Empty lines and lines that begin with `#` do not count.
pub fn read(text: &str, realm: &str) -> Result<HashMap<String, Secrets>, UsersError> {
    let mut users: HashMap<String, Secrets> = HashMap::new();
    for (text, line) in text.lines().zip(1..) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let mut fields = text.rsplitn(4, ':');
        let (Some(hash), Some(algorithm), Some(of), Some(user)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(UsersError::Fields { line });
        };
        if user.is_empty() || user.contains(':') {
            return Err(UsersError::Fields { line });
        }
        let algorithm = Algorithm::from_token(algorithm.as_bytes()).ok_or(UsersError::Algorithm { line })?;
        let hash =
            Hex::read(algorithm, hash.as_bytes()).ok_or(UsersError::Hash { line, digits: algorithm.digits() })?;
        if of != realm {
            continue;
        }
        let secrets = users.entry(user.to_owned()).or_default();
        if secrets.of(algorithm).is_some() {
            return Err(UsersError::Duplicate { line });
        }
        secrets.0.push((algorithm, hash));
    }
    if users.is_empty() { Err(UsersError::Empty) } else { Ok(users) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_mistakes_have_their_line() {
        let (sha, md5) = ("ab".repeat(32), "CD".repeat(16));
        let text = format!("# users\n\na:example.com:SHA-256:{sha}\na:example.com:md5:{md5}\nb:other:MD5:{md5}\n");
        let users = read(&text, "example.com").unwrap();
        assert_eq!(users.len(), 1);
        let secrets = users.get("a").unwrap();
        assert_eq!(secrets.of(Algorithm::Md5).unwrap().as_bytes(), md5.to_lowercase().as_bytes());
        assert!(secrets.cover(&[Algorithm::Sha256, Algorithm::Md5]) && !secrets.cover(&[Algorithm::Sha512_256]));
        assert!(!format!("{users:?}").contains("abab"), "secrets are not shown");

        let fault = |text: &str| read(text, "r").unwrap_err();
        assert_eq!(fault("a:r:password"), UsersError::Fields { line: 1 });
        assert_eq!(fault("#\na:b:r:MD5:00"), UsersError::Fields { line: 2 });
        assert_eq!(fault("a:r:SHA-1:00"), UsersError::Algorithm { line: 1 });
        assert_eq!(fault("a:r:MD5:password"), UsersError::Hash { line: 1, digits: 32 });
        assert_eq!(fault(&format!("a:r:MD5:{md5}\na:r:MD5:{md5}")), UsersError::Duplicate { line: 2 });
        assert_eq!(fault(&format!("a:x:MD5:{md5}")), UsersError::Empty);
    }
}
