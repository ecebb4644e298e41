//! A new configuration for a running edge: what can be taken over, and what it takes for ids to keep their meaning.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::names::TrunkNames;
use super::{admin, cdr, fetch, handshake, resolve, service};
use crate::config::{Config, Node};
use crate::proxy::route::table::Action;
use crate::proxy::{self, Listener, Trunk, TrunkId};
use crate::sip::hop::PeerId;
use crate::stir::replay::ReplayConfig;
use crate::stir::verification::VerifierConfig;
use crate::transport::tls::Credentials;

/// Why a configuration that is valid was not taken over. The old one stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadError {
    /// Sockets are bound once: a listener was added, removed or changed.
    Listeners {
        /// Its name.
        listener: String,
    },
    /// The number of workers is decided at the start.
    Workers,
    /// More trunks have come and gone than there are numbers for.
    Trunks,
    /// A key in a hardware module can not be used.
    Signer(super::signer::KeyError),
    /// The new file of call records can not be opened.
    Cdr {
        /// Its path.
        file: PathBuf,
        /// Why.
        reason: io::ErrorKind,
    },
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listeners { listener } => {
                write!(f, "listener \"{listener}\" was added, removed or changed; that needs a restart")
            }
            Self::Workers => f.write_str("node.workers was changed; that needs a restart"),
            Self::Signer(error) => error.fmt(f),
            Self::Cdr { file, reason } => write!(f, "cdr.file {}: {reason}", file.display()),
            Self::Trunks => f.write_str("too many trunks have come and gone; that needs a restart"),
        }
    }
}

impl std::error::Error for ReloadError {}

/// What is made of the configuration at the start and stays as it is.
pub(super) struct Fixed {
    node: Node,
    fetch: fetch::Config,
    handshakes: handshake::Config,
    resolve: resolve::Config,
    locate: bool,
    replay: ReplayConfig,
    verifier: VerifierConfig,
    cdr: Option<cdr::Config>,
    admin: Option<admin::Config>,
    service: Option<service::Config>,
}

impl Fixed {
    pub fn of(config: &Config) -> Self {
        Self {
            node: config.node.clone(),
            fetch: config.fetch.clone(),
            handshakes: config.handshakes.clone(),
            resolve: config.resolve.clone(),
            locate: config.proxy.locate,
            replay: config.replay,
            verifier: config.proxy.verifier.clone(),
            cdr: config.cdr.clone(),
            admin: config.admin.clone(),
            service: config.service.clone(),
        }
    }

    /// Records are made of calls, for their file or for the page.
    pub fn records(&self) -> bool {
        self.cdr.is_some() || self.node.http.is_some()
    }

    /// Keys and tables that say something else now, and that only a restart puts in force.
    pub fn changed(&self, new: &Config) -> Vec<&'static str> {
        let (old, node) = (&self.node, &new.node);
        let (caches, verifier) = (&self.verifier, &new.proxy.verifier);
        let queue = |cdr: &Option<cdr::Config>| cdr.as_ref().map(|cdr| cdr.queue);
        let service = |what: fn(&service::Config, &service::Config) -> bool| {
            self.service.as_ref().zip(new.service.as_ref()).is_some_and(|(old, new)| what(old, new))
        };
        let is_cdr_new = self.cdr.is_some() != new.cdr.is_some();
        let all = [
            ("node.http", old.http != node.http),
            ("node.lane_capacity", old.lane_capacity != node.lane_capacity),
            ("node.log", old.log != node.log),
            ("node.udp_backlog_bytes", old.udp.backlog != node.udp.backlog),
            ("node.udp_buffer_bytes", old.udp.buffer != node.udp.buffer),
            ("[admin]", self.admin != new.admin),
            ("[cdr]", is_cdr_new),
            ("cdr.queue", !is_cdr_new && queue(&self.cdr) != queue(&new.cdr)),
            ("[dns]", self.resolve != new.resolve || self.locate != new.proxy.locate),
            ("stir.cached_chains", caches.max_chains != verifier.max_chains),
            ("stir.cached_fetches", caches.max_fetched != verifier.max_fetched),
            ("stir.cached_headers", caches.headers.max_entries != verifier.headers.max_entries),
            ("stir.cached_refused_chains", caches.max_refused_chains != verifier.max_refused_chains),
            ("[stir.fetch]", !self.fetch.differs_by_lists_only(&new.fetch)),
            ("stir.replay_entries", self.replay != new.replay),
            ("[stir_service]", self.service.is_some() != new.service.is_some()),
            ("stir_service.bind", service(|old, new| old.bind != new.bind)),
            ("stir_service.connections", service(|old, new| old.connections != new.connections)),
            ("stir_service.queue", service(|old, new| old.queue != new.queue)),
            ("[tls]", self.handshakes != new.handshakes),
        ];
        all.into_iter().filter(|(_, has_changed)| *has_changed).map(|(key, _)| key).collect()
    }
}

/// The first listener that is not the same in both, by the configuration as written.
pub(super) fn changed_listener(old: &[Listener], new: &[Listener]) -> Option<String> {
    let differs = old.iter().zip(new).find(|(old, new)| old != new).map(|(_, new)| new.name.clone());
    let surplus = || old.get(new.len()).or(new.get(old.len())).map(|listener| listener.name.clone());
    differs.or_else(surplus)
}

/// Gives trunks the numbers they had, for these stand in route sets of calls and on connections: a trunk that is no more leaves an empty
/// place behind, which is its own should it come back; new ones come after all others.
pub(super) fn keep_numbers(
    old: &[Trunk],
    names: &TrunkNames,
    new: &mut proxy::Config,
    credentials: &Credentials,
) -> Result<Arc<Credentials>, ReloadError> {
    let mut trunks: Vec<Trunk> = old.iter().map(|_| Trunk::default()).collect();
    let mut numbers = Vec::with_capacity(new.trunks.len());
    for trunk in std::mem::take(&mut new.trunks) {
        let known = names.number(&trunk.name).map(|number| usize::from(number.0)).filter(|number| *number < old.len());
        let number = known.unwrap_or(trunks.len());
        match trunks.get_mut(number) {
            Some(place) => *place = trunk,
            None => trunks.push(trunk),
        }
        numbers.push(TrunkId(u16::try_from(number).map_err(|_| ReloadError::Trunks)?));
    }
    new.trunks = trunks;
    new.guard.renumber(&numbers, new.trunks.len());
    let number_of = |id: TrunkId| numbers.get(usize::from(id.0)).copied().unwrap_or(id);
    new.default_trunks.iter_mut().flatten().for_each(|trunk| *trunk = number_of(*trunk));
    for route in &mut new.routes {
        route.from.iter_mut().for_each(|id| *id = number_of(*id));
        if let Action::To(trunks) = &mut route.action {
            trunks.iter_mut().for_each(|id| *id = number_of(*id));
        }
    }
    let said = new.prefix_tables.iter_mut().flat_map(|table| &mut table.routes);
    said.flat_map(|route| &mut route.to).for_each(|id| *id = number_of(*id));
    Ok(Arc::new(credentials.renumbered(|peer| PeerId(number_of(TrunkId(peer.0)).0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Route;
    use crate::proxy::route::prefix::{PrefixRoute, PrefixTable};

    fn trunk(name: &str) -> Trunk {
        Trunk { name: name.into(), ..Trunk::default() }
    }

    #[test]
    fn kr12_a_trunk_keeps_its_number() {
        let old = [trunk("a"), trunk("b"), trunk("c")];
        let said = PrefixRoute { to: vec![TrunkId(1), TrunkId(2)], ..PrefixRoute::default() };
        let mut new = proxy::Config {
            trunks: vec![trunk("new"), trunk("c"), trunk("a")],
            routes: vec![Route::between(TrunkId(1), TrunkId(0))],
            prefix_tables: vec![PrefixTable::new("t".into(), vec![said], vec![]).unwrap()],
            ..proxy::Config::default()
        };
        let noted = TrunkNames::default();
        noted.note(&old);
        keep_numbers(&old, &noted, &mut new, &Credentials::default()).unwrap();
        noted.note(&new.trunks);
        let names: Vec<_> = new.trunks.iter().map(|trunk| trunk.name.as_str()).collect();
        assert_eq!(names, ["a", "", "c", "new"], "b is gone and its number is not given to another");
        let Action::To(to) = &new.routes[0].action else { panic!("it went to a trunk") };
        assert_eq!((&new.routes[0].from[..], &to[..]), (&[TrunkId(2)][..], &[TrunkId(3)][..]));
        assert_eq!(new.prefix_tables[0].routes[0].to, [TrunkId(2), TrunkId(0)]);

        // Once more: the empty place is that of "b", whose calls of before may still run there.
        let second = new.trunks.clone();
        let mut third = proxy::Config { trunks: vec![trunk("d"), trunk("b"), trunk("a")], ..proxy::Config::default() };
        keep_numbers(&second, &noted, &mut third, &Credentials::default()).unwrap();
        let names: Vec<_> = third.trunks.iter().map(|trunk| trunk.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "", "", "d"]);
    }
}
