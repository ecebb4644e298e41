//! UDP: one non-blocking socket per listener and worker, shared among workers by SO_REUSEPORT; batches in and out.

mod mmsg;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::task::{Context, Poll, Waker, ready};

use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sip::hop::{ListenerId, Outbox};

pub use mmsg::{BATCH, Batch, MAX_DATAGRAM, Returned};

/// Returned datagrams that are kept until they are taken; the rest of a flood is only counted.
const MAX_RETURNED: usize = 64;
/// Errors of others (see [`Socket::drain_errors`]) that may come between a datagram and its own.
const MAX_TRIES: usize = 4;

/// Settings of all UDP sockets.
#[derive(Clone, Debug)]
pub struct Config {
    /// SO_RCVBUF and SO_SNDBUF in bytes; 4 MiB. The kernel may grant less (`net.core.rmem_max`, `wmem_max`).
    pub buffer: usize,
    /// Bytes that wait per socket when its send buffer is full; 1 MiB. What comes on top is dropped and counted.
    pub backlog: usize,
    /// STUN binding requests are answered (KA-2); otherwise they are swallowed.
    pub answers_stun: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { buffer: 4 * 1024 * 1024, backlog: 1024 * 1024, answers_stun: false }
    }
}

/// What a socket has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams the kernel took.
    pub sent: u64,
    /// Datagrams dropped because the send buffer and the backlog were full.
    pub dropped: u64,
    /// Datagrams the kernel refused (no route, too large, not permitted).
    pub refused: u64,
    /// Datagrams that came back by ICMP (T-8).
    pub returned: u64,
}

impl Stats {
    /// Adds the counts of another socket.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.dropped += other.dropped;
        self.refused += other.refused;
        self.returned += other.returned;
    }
}

/// Binds the first socket of an address; fails if anyone else has it. Without a runtime: [`Socket::new`] hands it to the one it
/// runs in.
pub fn bind(address: SocketAddr, config: &Config) -> io::Result<std::net::UdpSocket> {
    let socket = open(address, config)?;
    socket.bind(&address.into())?;
    // Only now: with SO_REUSEPORT at bind, the same address in another process of ours would be no error but half of the traffic.
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

/// Binds another socket to the address of `first`; the kernel gives each of them a share of the flows.
pub fn share(first: &std::net::UdpSocket, config: &Config) -> io::Result<std::net::UdpSocket> {
    let address = first.local_addr()?;
    let socket = open(address, config)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn open(address: SocketAddr, config: &Config) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(config.buffer)?;
    socket.set_send_buffer_size(config.buffer)?;
    socket.set_nonblocking(true)?;
    mmsg::report_errors(socket.as_fd(), address.is_ipv6())?;
    Ok(socket)
}

/// A bound socket, registered with the runtime of its worker.
pub struct Socket {
    /// Watched for reading only: watched for writing too, every datagram that leaves the send buffer would wake the worker.
    io: AsyncFd<UdpSocket>,
    /// The same socket watched for writing, while something waits for room.
    writable: Option<AsyncFd<UdpSocket>>,
    listener: ListenerId,
    /// The task that drives this socket.
    waker: Option<Waker>,
    backlog: VecDeque<Waiting>,
    backlog_bytes: usize,
    backlog_limit: usize,
    returned: Vec<Returned>,
    stats: Stats,
}

/// A datagram that the kernel had no room for.
struct Waiting {
    to: SocketAddr,
    bytes: Box<[u8]>,
    tag: u64,
}

impl Socket {
    /// Registers a bound socket; call within the runtime.
    pub fn new(socket: std::net::UdpSocket, listener: ListenerId, config: &Config) -> io::Result<Self> {
        Ok(Self {
            io: mmsg::watch(socket, Interest::READABLE.add(Interest::PRIORITY))?,
            writable: None,
            listener,
            waker: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            backlog_limit: config.backlog,
            returned: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// The listener that this socket serves.
    pub fn listener(&self) -> ListenerId {
        self.listener
    }

    /// What the socket has seen.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Waits for datagrams and fills `batch` (see [`Batch::receive`]); on the way sends what waits for room. To be polled by one
    /// task only. An error concerns no datagram of the batch.
    pub fn poll(&mut self, cx: &mut Context<'_>, batch: &mut Batch, failed: &mut Vec<u64>) -> Poll<io::Result<usize>> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        self.poll_flush(cx, failed)?;
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let tried = batch.receive(ready.get_inner().as_fd());
            match tried {
                Ok(received) => {
                    // A batch that is not full has emptied the socket: no need to ask the kernel once more.
                    if received < BATCH {
                        ready.clear_ready();
                    }
                    self.stats.received += received as u64;
                    return Poll::Ready(Ok(received));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    // Woken without a datagram: there may be errors.
                    if self.drain_errors() {
                        return Poll::Ready(Ok(0));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Reported once, ahead of what can be read.
                Err(_) if self.drain_errors() => return Poll::Ready(Ok(0)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Datagrams that came back since the last call (T-8).
    pub fn take_returned(&mut self) -> Vec<Returned> {
        std::mem::take(&mut self.returned)
    }

    /// Empties the error queue, and with it the error that the next call on the socket would report whatever it is about. Whether
    /// there was anything.
    fn drain_errors(&mut self) -> bool {
        let mut some = false;
        // Bounded: what is left of a flood makes the next call fail again.
        for _ in 0..MAX_RETURNED {
            let Some(error) = mmsg::next_error(self.io.get_ref().as_fd()) else { break };
            some = true;
            let Some(returned) = error else { continue };
            self.stats.returned += 1;
            if self.returned.len() < MAX_RETURNED {
                self.returned.push(returned);
            }
        }
        some
    }

    /// Sends what waits for room, and watches the socket for writing as long as something does.
    fn poll_flush(&mut self, cx: &mut Context<'_>, failed: &mut Vec<u64>) -> io::Result<()> {
        while !self.backlog.is_empty() {
            if self.writable.is_none() {
                self.writable = Some(mmsg::watch(self.io.get_ref().try_clone()?, Interest::WRITABLE)?);
            }
            let Some(writable) = &self.writable else { break };
            match writable.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?.clear_ready(),
                Poll::Pending => return Ok(()),
            }
            self.flush(failed);
        }
        self.writable = None;
        Ok(())
    }

    /// Sends the named items of an outbox. Tags (other than 0) of datagrams that will not leave go to `failed`.
    pub fn send(&mut self, outbox: &Outbox, items: &[usize], failed: &mut Vec<u64>) {
        let all = outbox.items();
        for chunk in items.chunks(BATCH) {
            let transmits = || chunk.iter().filter_map(|&item| all.get(item));
            if !self.backlog.is_empty() {
                transmits().for_each(|t| self.postpone(t.hop.remote, outbox.bytes_of(t), t.tag, failed));
                continue;
            }
            let mut datagrams = [(SocketAddr::from(([0, 0, 0, 0], 0)), &[][..]); BATCH];
            let mut tags = [0; BATCH];
            let mut count = 0;
            for ((datagram, tag), transmit) in datagrams.iter_mut().zip(&mut tags).zip(transmits()) {
                *datagram = (transmit.hop.remote, outbox.bytes_of(transmit));
                *tag = transmit.tag;
                count += 1;
            }
            let (datagrams, tags) = (datagrams.get(..count).unwrap_or_default(), tags.get(..count).unwrap_or_default());
            let taken = self.send_now(datagrams, tags, failed);
            for ((to, bytes), tag) in datagrams.iter().zip(tags).skip(taken) {
                self.postpone(*to, bytes, *tag, failed);
            }
        }
    }

    /// Sends what waits, as far as the kernel has room.
    fn flush(&mut self, failed: &mut Vec<u64>) {
        while let Some(first) = self.backlog.pop_front() {
            if self.send_now(&[(first.to, &first.bytes)], &[first.tag], failed) == 0 {
                self.backlog.push_front(first);
                return;
            }
            self.backlog_bytes -= first.bytes.len();
        }
    }

    /// Returns how many datagrams are done with, sent or refused; fewer than all mean that the send buffer is full.
    fn send_now(&mut self, datagrams: &[(SocketAddr, &[u8])], tags: &[u64], failed: &mut Vec<u64>) -> usize {
        let (mut done, mut tries) = (0, 0);
        while let (Some(rest @ [_, ..]), Some(&tag)) = (datagrams.get(done..), tags.get(done)) {
            match mmsg::send(self.io.get_ref().as_fd(), rest) {
                Ok(sent) => {
                    done += sent;
                    tries = 0;
                    self.stats.sent += sent as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Perhaps the ICMP error of an earlier datagram, which is not to cost this one (T-9): its own error comes again.
                Err(_) if tries < MAX_TRIES && self.drain_errors() => tries += 1,
                // RFC 3261 18.4: a send error is the failure of this one datagram.
                Err(_) => {
                    done += 1;
                    tries = 0;
                    self.stats.refused += 1;
                    failed.extend((tag != 0).then_some(tag));
                }
            }
        }
        done
    }

    fn postpone(&mut self, to: SocketAddr, bytes: &[u8], tag: u64, failed: &mut Vec<u64>) {
        if self.backlog_bytes + bytes.len() > self.backlog_limit {
            self.stats.dropped += 1;
            failed.extend((tag != 0).then_some(tag));
            return;
        }
        self.backlog_bytes += bytes.len();
        self.backlog.push_back(Waiting { to, bytes: bytes.into(), tag });
        if let Some(waker) = &self.waker {
            waker.wake_by_ref(); // its task waits for room from now on
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::hop::{Hop, Transport};
    use std::future::poll_fn;

    #[tokio::test]
    async fn what_finds_no_room_waits_in_order_up_to_the_limit() {
        let config = Config { backlog: 50, ..Config::default() };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut from = Socket::new(bind(address, &config).unwrap(), ListenerId(0), &config).unwrap();
        let to = UdpSocket::bind(address).unwrap();
        let destination = to.local_addr().unwrap();
        // Loopback always has room, so the kernel's refusal is left out: the datagrams begin in the backlog.
        let mut failed = Vec::new();
        for tag in 1..=3 {
            from.postpone(destination, &[tag as u8; 12], tag, &mut failed);
        }
        let mut outbox = Outbox::new();
        let hop =
            Hop { transport: Transport::Udp, local: ListenerId(0), remote: destination, connection: None, peer: None };
        for tag in 4..=6 {
            outbox.push(hop, tag, &[tag as u8; 12]);
        }
        from.send(&outbox, &[0, 1, 2], &mut failed);
        assert_eq!(failed, [5, 6], "48 of 50 octets are taken, and nobody overtakes");
        assert_eq!((from.stats().sent, from.stats().dropped), (0, 2));

        let mut batch = Batch::new();
        while from.stats().sent < 4 {
            tokio::task::yield_now().await;
            poll_fn(|cx| Poll::Ready(from.poll(cx, &mut batch, &mut failed).is_pending())).await;
        }
        let mut buffer = [0; 16];
        let order: Vec<u8> = (0..4).map(|_| to.recv(&mut buffer).map(|_| buffer[0]).unwrap()).collect();
        assert_eq!(order, [1, 2, 3, 4]);
        assert!(from.writable.is_none(), "nothing waits, nothing is watched");
    }
}
