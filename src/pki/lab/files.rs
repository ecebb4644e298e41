//! The lab on disk.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::KeyPair;

use super::credential::certificate_pem;
use super::{Enterprise, Lab, LabError, Options, configuration};

/// The file that makes a directory a lab; it says what the others are.
pub const MARKER_FILE: &str = "lab.txt";
/// How it begins.
pub(super) const MARK: &str = "vesperd lab:";
/// First line of every key file, so that a production edge can warn about it.
pub const KEY_MARK: &str = "# vesperd lab: for tests only";

const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;

/// Makes the directory, and refuses one that holds anything but a lab.
pub(super) fn prepare(directory: &Path, overwrite: bool) -> Result<(), LabError> {
    let path = || directory.to_owned();
    let fault = |error| LabError::File { path: path(), error };
    fs::create_dir_all(directory).map_err(fault)?;
    let is_empty = fs::read_dir(directory).map_err(fault)?.next().is_none();
    // A file of this name may be anybody's; the words in it are ours.
    let is_lab = fs::read_to_string(directory.join(MARKER_FILE)).is_ok_and(|text| text.starts_with(MARK));
    match is_lab {
        _ if is_empty => Ok(()),
        false => Err(LabError::NotEmpty { path: path() }),
        true if overwrite => Ok(()),
        true => Err(LabError::Exists { path: path() }),
    }
}

/// Writes everything. The marker goes first: what breaks off half-way can be replaced.
pub(super) fn write(lab: &Lab, options: &Options) -> Result<(), LabError> {
    let file = |name: &str, content: &str| put(&lab.directory, name, content, PUBLIC);
    let key =
        |name: &str, key: &KeyPair| put(&lab.directory, name, &format!("{KEY_MARK}\n{}", key.serialize_pem()), SECRET);
    file(MARKER_FILE, &configuration::overview(lab))?;
    file("sti/root.pem", &certificate_pem(lab.root.certificate().der()))?;
    key("sti/root.key", lab.root.key())?;
    file("sti/issuing.pem", &certificate_pem(lab.issuing.certificate().der()))?;
    key("sti/issuing.key", lab.issuing.key())?;
    file("log/log-list.json", &lab.log_list.to_json())?;
    key("log/log.key", lab.log.key())?;
    file("web/ca.pem", &certificate_pem(lab.web.certificate().der()))?;
    key("web/ca.key", lab.web.key())?;
    for Enterprise { directory, sti, tls, .. } in [&lab.acme, &lab.globex] {
        file(&format!("{directory}/sti.pem"), &sti.chain_pem())?;
        key(&format!("{directory}/sti.key"), &sti.key)?;
        file(&format!("{directory}/tls.pem"), &tls.chain_pem())?;
        key(&format!("{directory}/tls.key"), &tls.key)?;
    }
    file("provider/shaken.pem", &lab.provider.chain_pem())?;
    key("provider/shaken.key", &lab.provider.key)?;
    file("originating.toml", &configuration::originating(lab, &options.addresses))?;
    file("terminating.toml", &configuration::terminating(lab, &options.addresses))
}

/// A new file with these permissions from its first octet on; an old one of the same name is removed.
fn put(directory: &Path, name: &str, content: &str, mode: u32) -> Result<(), LabError> {
    let path = directory.join(name);
    let attempt = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?.write_all(content.as_bytes())
    };
    attempt().map_err(|error| LabError::File { path: path.clone(), error })
}
