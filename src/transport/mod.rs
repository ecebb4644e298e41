//! Sockets (RFC 3261 18): UDP in batches, TCP connections with their limits, TLS and WebSocket over them. Knows messages only as bytes with a destination; what
//! they mean is for the floors below. Everything here belongs to one worker; only the TLS
//! credentials are shared, and asked for once per handshake.

pub mod tcp;
pub mod tls;
pub mod udp;
pub mod ws;
