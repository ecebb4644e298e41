//! Digest authentication as a server (RFC 3261 22.3, RFC 7616, RFC 8760; V-9): a trunk is known by the credentials in
//! Proxy-Authorization. Only `qop=auth`; never for ACK and CANCEL.
//!
//! What is covered: a nonce is made here, for a realm, and ends after a time; each count of it is good once on the whole node; the
//! credentials are bound to method and Request-URI. What is not: bodies and other header fields (`auth-int` is not offered), and
//! counts of nonces made before a restart, which are answered by a new challenge instead.

pub mod algorithm;
pub mod credentials;
pub mod nonce;
pub mod users;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::constant_time;

pub use algorithm::{Algorithm, Hex};
pub use credentials::Credentials;
pub use users::{Secrets, UsersError};

use crate::proxy::TrunkId;
use crate::sip::{Message, Name, Uri};
use nonce::{Claim, Count, Counts, Nonces};

/// One realm: its challenge and its users.
#[derive(Clone, Debug)]
pub struct Realm {
    /// Its name.
    pub name: String,
    /// What it is challenged with, the preferred one first.
    pub algorithms: Vec<Algorithm>,
    /// Users and the trunks they are.
    pub users: HashMap<String, (TrunkId, Secrets)>,
    /// How long a nonce is good.
    pub life: Duration,
}

/// All realms; one for all workers.
#[derive(Default)]
pub struct Digest {
    realms: Vec<Realm>,
    /// For each trunk the realm it has to authenticate to.
    required: Vec<Option<usize>>,
    nonces: Arc<OnceLock<Nonces>>,
    counts: Arc<Counts>,
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest").field("realms", &self.realms).finish_non_exhaustive()
    }
}

/// What the credentials of a request prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Its user is this trunk.
    Trunk(TrunkId),
    /// They are right, but the nonce or its count is not good any more.
    Stale,
    /// They are wrong.
    Wrong,
    /// There are none for a realm of ours.
    None,
}

impl Digest {
    /// Realms, and the one that each trunk has to authenticate to.
    pub fn new(realms: Vec<Realm>, required: Vec<Option<usize>>) -> Self {
        Digest { realms, required, nonces: Arc::default(), counts: Arc::default() }
    }

    /// Remembers so many nonces in use.
    pub fn with_room(self, nonces: usize) -> Self {
        Digest { counts: Arc::new(Counts::with_room(nonces)), ..self }
    }

    /// Gives the nonces their secret key; only the first call counts.
    pub fn start(&self, key: &[u8; 16]) {
        let _ = self.nonces.set(Nonces::new(key));
    }

    /// Goes on with the nonces and counts of an older configuration.
    pub fn continue_from(&mut self, old: &Digest) {
        old.counts.set_room(self.counts.room());
        (self.nonces, self.counts) = (Arc::clone(&old.nonces), Arc::clone(&old.counts));
    }

    /// Gives trunks other numbers: `numbers` holds the new one at the place of the old one, all below `count`.
    pub fn renumber(&mut self, numbers: &[TrunkId], count: usize) {
        let number_of = |id: usize| numbers.get(id).copied();
        let mut required = vec![None; count];
        for (trunk, realm) in self.required.iter().enumerate() {
            if let Some(place) = number_of(trunk).and_then(|id| required.get_mut(usize::from(id.0))) {
                *place = *realm;
            }
        }
        self.required = required;
        for (trunk, _) in self.realms.iter_mut().flat_map(|realm| realm.users.values_mut()) {
            *trunk = number_of(usize::from(trunk.0)).unwrap_or(*trunk);
        }
    }

    /// Whether a trunk has to authenticate.
    pub fn requires(&self, trunk: TrunkId) -> bool {
        self.required.get(usize::from(trunk.0)).is_some_and(Option::is_some)
    }

    /// How long a nonce is good that a trunk authenticated with.
    pub fn life_for(&self, trunk: TrunkId) -> Duration {
        let place = self.required.get(usize::from(trunk.0)).copied().flatten();
        place.and_then(|place| self.realms.get(place)).map_or(Duration::ZERO, |realm| realm.life)
    }

    /// Whether a value of Proxy-Authorization is for a realm of ours: it ends here (RFC 3261 22.3).
    pub fn is_ours(&self, value: &[u8]) -> bool {
        Credentials::parse(value).is_some_and(|found| self.realm(&found.realm).is_some())
    }

    fn realm(&self, name: &[u8]) -> Option<&Realm> {
        self.realms.iter().find(|realm| realm.name.as_bytes() == name)
    }

    /// Appends the challenges for a trunk, or for somebody unknown: for each realm one line per algorithm, the preferred one first
    /// (RFC 8760 2.3). `number` is to be another one each time.
    pub fn challenge(&self, trunk: Option<TrunkId>, unix: i64, number: u64, stale: bool, out: &mut Vec<u8>) {
        let Some(nonces) = self.nonces.get() else { return };
        let required = trunk.and_then(|trunk| *self.required.get(usize::from(trunk.0))?);
        for (place, realm) in self.realms.iter().enumerate() {
            if required.is_some_and(|required| required != place) {
                continue;
            }
            let nonce = nonces.make(&realm.name, Claim { made: unix, number });
            for algorithm in &realm.algorithms {
                let parts = [
                    "Proxy-Authenticate: Digest realm=\"",
                    &realm.name,
                    "\",nonce=\"",
                    &nonce,
                    "\",algorithm=",
                    algorithm.token(),
                    ",qop=\"auth\"",
                    if stale { ",stale=true\r\n" } else { "\r\n" },
                ];
                parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
            }
        }
    }

    /// Judges the credentials of a request. Of several for realms of ours the best counts.
    pub fn prove(&self, request: Message<'_>, unix: i64) -> Proof {
        let mut best = Proof::None;
        for field in request.fields_of(Name::ProxyAuthorization).take(8) {
            let value = field.unfolded();
            let Some(found) = Credentials::parse(&value) else { continue };
            let Some(realm) = self.realm(&found.realm) else { continue };
            match self.judge(realm, &found, request, unix) {
                Proof::Trunk(trunk) => return Proof::Trunk(trunk),
                Proof::Stale => best = Proof::Stale,
                other if best == Proof::None => best = other,
                _ => {}
            }
        }
        best
    }

    fn judge(&self, realm: &Realm, found: &Credentials<'_>, request: Message<'_>, unix: i64) -> Proof {
        let algorithm = match &found.algorithm[..] {
            b"" => Some(Algorithm::Md5),
            token => Algorithm::from_token(token),
        };
        let Some(algorithm) = algorithm.filter(|algorithm| realm.algorithms.contains(algorithm)) else {
            return Proof::Wrong;
        };
        let user = std::str::from_utf8(&found.username).ok().and_then(|name| realm.users.get(name));
        // An unknown user costs the same work as a known one.
        let nobody = algorithm.hash(&[b"", realm.name.as_bytes(), b""]);
        let secret = user.and_then(|(_, secrets)| secrets.of(algorithm));
        let method = request.method().map(|method| method.as_bytes()).unwrap_or_default();
        let expected = response(algorithm, secret.unwrap_or(&nobody), found, method);
        let given = Hex::read(algorithm, &found.response).unwrap_or(nobody);
        let is_right = constant_time::verify_slices_are_equal(expected.as_bytes(), given.as_bytes()).is_ok();
        let (Some((trunk, _)), Some(_), Some(count), true) = (user, secret, found.count(), is_right) else {
            return Proof::Wrong;
        };
        if !found.qop.eq_ignore_ascii_case(b"auth") || !is_same_uri(&found.uri, request.request_uri()) {
            return Proof::Wrong;
        }
        let claim = self.nonces.get().and_then(|nonces| nonces.read(&realm.name, &found.nonce));
        let oldest = unix.saturating_sub(i64::try_from(realm.life.as_secs()).unwrap_or(i64::MAX));
        match claim.filter(|claim| (oldest..=unix).contains(&claim.made)) {
            Some(claim) if self.counts.note(claim, count, oldest) == Count::Fresh => Proof::Trunk(*trunk),
            _ => Proof::Stale,
        }
    }
}

/// RFC 7616 3.4.1 for `qop=auth`.
fn response(algorithm: Algorithm, secret: &Hex, found: &Credentials<'_>, method: &[u8]) -> Hex {
    let request = algorithm.hash(&[method, &found.uri]);
    algorithm.hash(&[secret.as_bytes(), &found.nonce, &found.nc, &found.cnonce, b"auth", request.as_bytes()])
}

/// The URI of the credentials is that of the request: else they could be sent along with another number.
fn is_same_uri(own: &[u8], of_request: &[u8]) -> bool {
    own == of_request
        || matches!((Uri::parse(own), Uri::parse(of_request)), (Ok(own), Ok(request)) if own.equals(&request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(algorithm: Algorithm, response_: &str) {
        let value = "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", algorithm=MD5, \
            nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, qop=auth, \
            cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", response=\"x\"";
        let found = Credentials::parse(value.as_bytes()).unwrap();
        let secret = algorithm.hash(&[&found.username, &found.realm, b"Circle of Life"]);
        assert_eq!(response(algorithm, &secret, &found, b"GET").as_bytes(), response_.as_bytes());
    }

    #[test]
    fn rfc7616_3_9_1_examples() {
        expected(Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec");
        expected(Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
    }

    #[test]
    fn fips180_sha_512_256_of_abc() {
        let hash = Algorithm::Sha512_256.hash(&[b"abc"]);
        assert_eq!(hash.as_bytes(), b"53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23");
    }

    #[test]
    fn uris_are_the_same_by_their_meaning() {
        assert!(is_same_uri(b"sip:1@h;user=phone", b"sip:1@h;user=phone"));
        assert!(is_same_uri(b"sip:1@H", b"sip:1@h"));
        assert!(!is_same_uri(b"sip:1@h", b"sip:2@h"));
    }
}
