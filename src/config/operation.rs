//! `[cdr]` and `[admin]`: what operators get to see and to do.

use std::path::{Path, PathBuf};

use super::files::Files;
use super::mistake::Warning;
use super::reader::Section;
use crate::node::{admin, cdr};

/// Records or questions that may wait.
const QUEUE: (u64, u64) = (1, 1_000_000);

/// Reads `[cdr]`.
pub(super) fn read_cdr(root: &Section<'_, '_>, files: &Files<'_>, warnings: &mut Vec<Warning>) -> Option<cdr::Config> {
    let section = root.section("cdr")?;
    let file = section.required("file", "a file, or \"stdout\"");
    let mut queue = 10_000;
    section.size("queue", QUEUE, &mut queue);
    let shortened = section.choice("numbers", &[("whole", false), ("shortened", true)]).unwrap_or_default();
    section.finish();
    let target = match file?.value {
        "stdout" => cdr::Target::Stdout,
        file => cdr::Target::File(files.path(file)),
    };
    if let cdr::Target::File(path) = &target {
        warnings.extend(without_directory("cdr.file", path));
    }
    Some(cdr::Config { target, queue, shortened })
}

/// Reads `[admin]`.
pub(super) fn read_admin(
    root: &Section<'_, '_>,
    files: &Files<'_>,
    warnings: &mut Vec<Warning>,
) -> Option<admin::Config> {
    let section = root.section("admin")?;
    let socket: Option<PathBuf> = section.required("socket", "the path of a socket").map(|at| files.path(at.value));
    let mode = section.choice("mode", &[("0600", 0o600), ("0660", 0o660)]).unwrap_or(0o600);
    let mut connections = 16;
    section.size("connections", (1, 1024), &mut connections);
    section.finish();
    let socket = socket?;
    warnings.extend(without_directory("admin.socket", &socket));
    Some(admin::Config { socket, mode, connections })
}

/// No mistake: whoever starts the edge may make the directory first, as systemd does.
fn without_directory(key: &'static str, path: &Path) -> Option<Warning> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty())?;
    (!directory.is_dir()).then(|| Warning::NoDirectory { key, directory: directory.to_owned() })
}
