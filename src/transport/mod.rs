//! Sockets (RFC 3261 18): UDP in batches, TCP connections with their limits. Knows messages only as bytes with a destination; what
//! they mean is for the floors below. Everything here belongs to one worker: no locks.

pub mod tcp;
pub mod udp;
