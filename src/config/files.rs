//! Files that the configuration names.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use super::mistake::{Fault, Warning};
use crate::cert::{ListKey, LogList, TrustAnchors, certificates_from_pem_or_der, open};

/// What `vesperd lab` writes into the PEM files it makes.
const LAB_MARKER: &[u8] = b"vesperd lab";

/// Reads files.
pub(super) struct Files<'a> {
    /// Where relative paths begin.
    pub base: &'a Path,
    /// The present time, Unix seconds.
    pub unix: i64,
    /// Leaf certificates in force, of signers and for TLS, DER.
    pub in_force: &'a [Vec<u8>],
    /// Leaf certificates for TLS that were read, DER.
    pub tls_leaves: RefCell<Vec<Vec<u8>>>,
}

impl Files<'_> {
    pub fn path(&self, named: &str) -> PathBuf {
        self.base.join(named)
    }

    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Fault> {
        std::fs::read(path).map_err(|error| unreadable(path, &error))
    }

    /// A file of keys or certificates; one from a laboratory is told.
    pub fn read_credential(&self, path: &Path, warnings: &mut Vec<Warning>) -> Result<Vec<u8>, Fault> {
        let bytes = self.read(path)?;
        if memchr::memmem::find(&bytes, LAB_MARKER).is_some() {
            warnings.push(Warning::LabKey { path: path.to_owned() });
        }
        Ok(bytes)
    }

    /// All certificates of a PEM (or the one of a DER) file.
    pub fn read_certificates(&self, path: &Path, warnings: &mut Vec<Warning>) -> Result<Vec<Vec<u8>>, Fault> {
        let certificates = certificates_from_pem_or_der(&self.read_credential(path, warnings)?);
        let all = certificates.into_iter().collect::<Result<_, _>>();
        all.map_err(|error| Fault::Pem { path: path.to_owned(), error })
    }

    /// Adds the certificates of a file, or of all certificate files of a directory.
    pub fn read_anchors(&self, path: &Path, to: &mut TrustAnchors, warnings: &mut Vec<Warning>) -> Result<(), Fault> {
        let mut paths = vec![path.to_owned()];
        if path.is_dir() {
            let entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let entries = entries.map_err(|error| unreadable(path, &error))?;
            paths = entries.into_iter().map(|entry| entry.path()).filter(|path| is_certificate_file(path)).collect();
            paths.sort();
            if paths.is_empty() {
                return Err(Fault::Content {
                    path: path.to_owned(),
                    expected: "a directory with .pem, .crt, .cer or .der files",
                });
            }
        }
        for path in paths {
            for der in self.read_certificates(&path, warnings)? {
                to.add_der(&der).map_err(|error| Fault::Anchor { path: path.clone(), error })?;
            }
        }
        Ok(())
    }

    /// The list of logs; signed, where there is a key.
    pub fn read_logs(&self, path: &Path, key: Option<&ListKey>) -> Result<LogList, Fault> {
        let mut text = self.read(path)?;
        if let Some(key) = key {
            text = open(&text, key).map_err(|error| Fault::SignedList { path: path.to_owned(), error })?;
        }
        LogList::from_json(&text).map_err(|error| Fault::LogList { path: path.to_owned(), error })
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::File { path: path.to_owned(), kind: error.kind() }
}

pub(crate) fn is_certificate_file(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension
        .is_some_and(|extension| ["pem", "crt", "cer", "der"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
}
