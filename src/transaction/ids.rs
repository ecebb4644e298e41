//! How transactions are named.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::sip::hop::RESPONSE_TAG;

/// A client transaction. Ids are not used twice (within 2^31 transactions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(pub(super) u64);

impl ClientId {
    /// The mark of this transaction on what it sends ([`crate::sip::hop::Transmit::tag`]); never zero.
    pub fn tag(self) -> u64 {
        self.0
    }

    /// The client transaction that sent something, if it was one.
    pub fn from_tag(tag: u64) -> Option<Self> {
        (tag != 0 && tag & SERVER_TAG == 0).then_some(Self(tag))
    }
}

/// A server transaction. Ids are not used twice (within 2^31 transactions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerId(pub(super) u64);

impl ServerId {
    /// The mark of this transaction on what it sends; never zero.
    pub fn tag(self) -> u64 {
        self.0 | SERVER_TAG
    }

    /// The server transaction that sent something, if it was one.
    pub fn from_tag(tag: u64) -> Option<Self> {
        (tag & SERVER_TAG != 0).then_some(Self(tag & !SERVER_TAG))
    }
}

/// Set in the tags of server transactions; ids leave this bit free.
const SERVER_TAG: u64 = RESPONSE_TAG;

/// What an id is made of: where the transaction lies, and the number that tells it from others that lay there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub index: u32,
    pub serial: u32,
}

impl Place {
    pub fn id(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }

    pub fn of(id: u64) -> Self {
        Self { index: id as u32, serial: (id >> 32) as u32 }
    }
}

/// Where the serial numbers of a layer begin: elsewhere for each key, so that a late report about a transaction of an earlier life of the
/// worker meets none of this one.
pub(super) fn first_serial(key: [u8; 16]) -> u32 {
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(b"serial");
    hasher.finish() as u32 & i32::MAX as u32
}

/// Counts up through 1 to 2^31-1, so that an id is neither zero nor has the top bit set.
pub(super) fn next_serial(serial: &mut u32) -> u32 {
    *serial = if *serial >= i32::MAX as u32 { 1 } else { *serial + 1 };
    *serial
}
