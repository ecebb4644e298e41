//! Tells systemd how far the program is (sd_notify(3)); does nothing where nobody listens.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends one state, such as `READY=1`. That nobody takes it is no error: a supervisor decides what silence means.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let mut message = state.to_owned();
    if state == "RELOADING=1" {
        // systemd wants to know since when (`Type=notify-reload`), on the clock that it reads itself.
        if let Some(microseconds) = monotonic_microseconds() {
            message += &format!("\nMONOTONIC_USEC={microseconds}");
        }
    }
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(message.as_bytes(), &address);
    }
}

/// The kernel's own account of the time since boot.
fn monotonic_microseconds() -> Option<u64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000 + hundredths.parse::<u64>().ok()? * 10_000)
}
