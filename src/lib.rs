//! **vesperd**: a SIP edge proxy with inline caller identity (STIR/SHAKEN and VESPER).
//!
//! # The map
//!
//! Modules stand on four floors; a module uses only what stands below it, as listed. `tests/architecture.rs` checks this table.
//!
//! | floor | module | duty | uses |
//! |---|---|---|---|
//! | 1 words: bytes in, types out; no clock, socket, async, lock | [`sip`] | RFC 3261 messages: index over received bytes, lazy header views, URI/tel, Identity field, patch, stream framing | - |
//! | | [`passport`] | RFC 8225: JWS, claims, telephone numbers in canonical form, `ppt` types | - |
//! | | [`cert`] | STI certificates: TNAuthList, claim constraints, SCTs, path validation, CRLs, signed lists, trust store with its bounded caches | - |
//! | 2 machines: sans-IO, `now` in, output out | [`transaction`] | RFC 3261 section 17 and RFC 6026: four machines, keys, timer wheel | sip |
//! | | [`stir`] | RFC 8224: authentication service, verification service, failure to status and Reason | sip passport cert |
//! | | [`proxy`] | RFC 3261 section 16: request context, plan and attempts, forwarding, response context, route rules, location (RFC 3263), admission of strangers, overload control, digest, the table of calls | sip passport transaction stir |
//! | 3 outside: may wait, may store; knows no machine | [`transport`] | UDP batches, TCP connections, TLS, WebSocket, limits | sip |
//! | | [`pki`] | issuing: certificate authority, transparency log key, the lab | passport cert |
//! | 4 the running program | [`node`] | worker (the packet loop), the threads beside it (fetch, signer, resolve, handshake, http, admin, cdr, service), metrics, start, reload and stop | all |
//! | | [`config`], [`cli`] | TOML to valid types; one file per subcommand | all |
//!
//! # The life of an INVITE
//!
//! A worker is one thread. It reads a batch of datagrams (or frames a stream), takes the time once, and calls
//! [`sip::parse`], then [`proxy::Proxy::handle_message`], which asks the [`transaction`] layer, checks (RFC 3261 16.3),
//! verifies ([`stir::verification`]), routes, signs ([`stir::authentication`]), patches (16.6) and writes what is to be sent into
//! an [`proxy::Output`]. The worker hands that to [`transport`] in one batch. No channel, task or lock lies on this way.
//! What is slow (a certificate that only an `x5u` names, a signature by a hardware module) becomes a [`proxy::Need`]: the call is parked,
//! `node::fetch` or `node::signer` answers.
//!
//! # The life of a certificate
//!
//! `x5c` (or a fetched chain) enters [`cert::TrustStore`], which validates it once (path, anchors, scope along the path, SCTs),
//! and keeps the verdict with its time limits under the raw protected header of the token. A warm verification is a map hit, the
//! claims, and one ECDSA verification. CRLs are asked at each use; they, and the lists of authorities and logs, are brought up to date by
//! `node::fetch`, and `node::trust` hands them to all workers.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod cert;
pub mod cli;
pub mod config;
pub mod node;
pub mod passport;
pub mod pki;
pub mod proxy;
pub mod sip;
pub mod stir;
pub mod transaction;
pub mod transport;
