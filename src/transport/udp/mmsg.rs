//! `recvmmsg` and `sendmmsg`: many datagrams in one system call; and the registration with the runtime. The only unsafe code of the
//! project.
//!
//! Why it is sound: every pointer handed to the kernel is taken, in the same function call, from memory that the caller's
//! borrows keep alive and unmoved until the call returns (buffers and addresses are vectors that are not touched in between);
//! lengths are those of that memory; what the kernel reports back is clamped before it is used; addresses are read from plain
//! old data that was zeroed before.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Datagrams per system call.
pub const BATCH: usize = 32;

/// Largest datagram (T-6).
pub const MAX_DATAGRAM: usize = 65_535;

/// Received datagrams. Memory for the largest possible ones is reserved once; pages are touched only as datagrams need them.
pub struct Batch {
    buffers: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    lengths: [usize; BATCH],
    received: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        // SAFETY: an all-zero sockaddr_storage is a valid value (family AF_UNSPEC).
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self { buffers: vec![0; BATCH * MAX_DATAGRAM], names: vec![name; BATCH], lengths: [0; BATCH], received: 0 }
    }

    /// Datagrams and their sources, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let slots = self.buffers.chunks_exact(MAX_DATAGRAM).zip(&self.lengths).zip(&self.names).take(self.received);
        slots.filter_map(|((buffer, &length), name)| Some((address_of(name)?, buffer.get(..length)?)))
    }

    /// Fills the batch with what waits in the socket, without blocking. Returns the number of datagrams, at most [`BATCH`];
    /// fewer mean that the socket was empty then. `WouldBlock` if there was none.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received = 0;
        // SAFETY: all-zero iovec and mmsghdr are valid values (null pointers, zero lengths).
        let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { mem::zeroed() };
        let slots = self.buffers.chunks_exact_mut(MAX_DATAGRAM).zip(&mut self.names);
        for ((part, header), (buffer, name)) in parts.iter_mut().zip(&mut headers).zip(slots) {
            *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_iov = ptr::from_mut(part);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: `headers` has BATCH entries; each points to one iovec, one buffer and one name that live past the call.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), BATCH as u32, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.received = received.min(BATCH);
        for (length, header) in self.lengths.iter_mut().zip(&headers) {
            *length = (header.msg_len as usize).min(MAX_DATAGRAM);
        }
        Ok(self.received)
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends up to [`BATCH`] datagrams without blocking; returns how many the kernel took (at least one). An error is the error of
/// the first datagram; errors of later ones show when they are first.
pub fn send(socket: BorrowedFd<'_>, datagrams: &[(SocketAddr, &[u8])]) -> io::Result<usize> {
    // SAFETY: all-zero iovec and mmsghdr are valid values (null pointers, zero lengths).
    let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { mem::zeroed() };
    let mut names: [Option<socket2::SockAddr>; BATCH] = [const { None }; BATCH];
    let count = datagrams.len().min(BATCH);
    for (((part, header), name), (to, bytes)) in parts.iter_mut().zip(&mut headers).zip(&mut names).zip(datagrams) {
        let name = name.insert(socket2::SockAddr::from(*to));
        // The kernel only reads through these pointers; the C type has no const.
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_hdr.msg_iov = ptr::from_mut(part);
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = name.len();
    }
    // SAFETY: the first `count` headers point to iovecs, names and bytes that live past the call and are only read.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A datagram of ours that came back (RFC 3261 18.4).
#[derive(Debug)]
pub struct Returned {
    /// Where it was sent.
    pub remote: SocketAddr,
    /// Its beginning, as much as the ICMP message quotes: at least 8 octets of UDP header, so maybe nothing of it.
    pub quoted: Box<[u8]>,
}

/// More of a returned datagram is not kept: an ICMP message quotes at most 1232 octets behind an IPv6 header.
const QUOTED: usize = 1280;

/// Asks the kernel for ICMP errors on an unconnected socket, and for the reading event when there are some.
pub fn report_errors(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    let option = if is_ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let on: libc::c_int = 1;
    for (level, name) in [option, (libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE)] {
        // SAFETY: the pointer and the length are those of `on`, which is only read during the call.
        let result = unsafe {
            let length = mem::size_of_val(&on) as libc::socklen_t;
            libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&on).cast(), length)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The next entry of the socket's error queue: `Some(None)` if it means no failure of a datagram; `None` when the queue is empty.
pub fn next_error(socket: BorrowedFd<'_>) -> Option<Option<Returned>> {
    let mut buffer = [0u8; QUOTED];
    // Room for one extended error with the address of who sent it, and more; aligned as control messages must be.
    let mut control = [0u64; 64];
    // SAFETY: all-zero sockaddr_storage and msghdr are valid values.
    let (mut name, mut header): (libc::sockaddr_storage, libc::msghdr) = unsafe { mem::zeroed() };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    header.msg_name = ptr::from_mut(&mut name).cast();
    header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    header.msg_iov = ptr::from_mut(&mut part);
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: name, part, buffer and control live past the call; their lengths are given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    let received = usize::try_from(received).ok()?;
    let is_failure = extended_error(&header).is_some_and(|error| is_unreachable(&error));
    let quoted = buffer.get(..received.min(QUOTED)).unwrap_or_default();
    let returned = || Some(Returned { remote: address_of(&name)?, quoted: quoted.into() });
    Some(if is_failure { returned() } else { None })
}

/// The extended error among the control messages of a header that `recvmsg` has filled.
fn extended_error(header: &libc::msghdr) -> Option<libc::sock_extended_err> {
    // SAFETY: the kernel has filled the control buffer, which the caller keeps alive, and set its length; the macros walk it within
    // that length. An entry is read only if its own length covers the plain old data read from it.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(header);
        while let Some(head) = entry.as_ref() {
            let kind = (head.cmsg_level, head.cmsg_type);
            let needed = libc::CMSG_LEN(mem::size_of::<libc::sock_extended_err>() as u32) as usize;
            let is_error =
                kind == (libc::IPPROTO_IP, libc::IP_RECVERR) || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
            if is_error && head.cmsg_len >= needed {
                return Some(ptr::read_unaligned(libc::CMSG_DATA(entry).cast()));
            }
            entry = libc::CMSG_NXTHDR(header, entry);
        }
    }
    None
}

/// T-8: host, network, port or protocol unreachable, or parameter problem. Not: time exceeded, source quench, packet too big (the
/// kernel fragments from then on), errors of this host (the call itself reports them).
fn is_unreachable(error: &libc::sock_extended_err) -> bool {
    const FRAGMENTATION_NEEDED: u8 = 4;
    match (error.ee_origin, error.ee_type) {
        (libc::SO_EE_ORIGIN_ICMP, 3) => error.ee_code != FRAGMENTATION_NEEDED,
        (libc::SO_EE_ORIGIN_ICMP, 12) | (libc::SO_EE_ORIGIN_ICMP6, 1 | 4) => true,
        _ => false,
    }
}

/// Registers a socket with the runtime for one kind of event.
pub fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a std socket owns its descriptor: it is open, and the same one, for as long as the `AsyncFd` owns the socket.
    unsafe { AsyncFd::register_with_interest(socket, interest) }.map_err(Into::into)
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage is larger and at least as aligned as sockaddr_in, which is plain old data.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t8_which_icmp_errors_count() {
        let counts = |origin, kind, code| {
            // SAFETY: plain old data.
            let zero: libc::sock_extended_err = unsafe { mem::zeroed() };
            is_unreachable(&libc::sock_extended_err { ee_origin: origin, ee_type: kind, ee_code: code, ..zero })
        };
        let (v4, v6) = (libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6);
        for (origin, kind, code) in
            [(v4, 3, 0), (v4, 3, 1), (v4, 3, 2), (v4, 3, 3), (v4, 12, 0), (v6, 1, 4), (v6, 4, 0)]
        {
            assert!(counts(origin, kind, code), "{origin} {kind} {code}");
        }
        // Fragmentation needed, source quench, time exceeded, packet too big, an error of this host.
        for (origin, kind, code) in
            [(v4, 3, 4), (v4, 4, 0), (v4, 11, 0), (v6, 2, 0), (v6, 3, 0), (libc::SO_EE_ORIGIN_LOCAL, 3, 3)]
        {
            assert!(!counts(origin, kind, code), "{origin} {kind} {code}");
        }
    }
}
