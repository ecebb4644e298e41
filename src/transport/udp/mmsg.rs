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
