//! The lab: a complete STI ecosystem in one directory, to try vesperd with. Its keys lie open on disk and protect nothing.
//!
//! Two enterprises with VESPER delegate certificates, one provider with a SHAKEN certificate, the authorities and the log behind them, and
//! the configurations of two edges that call each other with all of it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::ca::profile::{
    AuthorityProfile, DEFAULT_LIFETIME, DelegateProfile, Name, ShakenPointers, ShakenProfile, TlsProfile,
};
use super::ca::{Authority, IssueError, Transparency};
use super::log::{LogError, TransparencyLog};
use crate::cert::sct::sha256;
use crate::cert::{LogList, LogListError, TnAuthList, TnEntry};

mod configuration;
mod credential;
mod files;
mod flaw;

pub use credential::Credential;
pub use files::{KEY_MARK, MARKER_FILE};
pub use flaw::{Flaw, PERMITTED_CALL_REASON};

const DAY: i64 = 86_400;
/// Authorities of the lab begin this long before it is made, so that [`Flaw::Expired`] can lie in between; seconds.
const AUTHORITY_BACKDATE: i64 = DAY;
/// And end this long after; seconds.
const AUTHORITY_LIFETIME: i64 = 365 * DAY;
/// Merge delay that the log list states, seconds.
const MERGE_DELAY: u64 = DAY as u64;
/// US SHAKEN certificate policy 1.4, 2.16.840.1.114569.1.1.4.
const POLICY: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x86, 0xff, 0x09, 0x01, 0x01, 0x04];
/// The code of the lab's provider.
pub const SERVICE_PROVIDER_CODE: &str = "709J";

/// Why there is no lab.
#[derive(Debug)]
pub enum LabError {
    /// A file or directory can not be read or written.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The directory holds something that is not a lab.
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// The directory holds a lab already, and nothing says to replace it.
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The authority refuses.
    Issue(IssueError),
    /// The log refuses.
    Log(LogError),
    /// The log can not be listed.
    LogList(LogListError),
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::NotEmpty { path } => {
                write!(f, "{} is not empty and not a lab; choose another directory", path.display())
            }
            Self::Exists { path } => {
                write!(f, "{} is a lab already; --force replaces its keys and certificates", path.display())
            }
            Self::Issue(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::LogList(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LabError {}

impl From<IssueError> for LabError {
    fn from(error: IssueError) -> Self {
        Self::Issue(error)
    }
}

/// Where the actors of the lab listen, over UDP and TCP alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The edge of Acme, which signs.
    pub originating: SocketAddr,
    /// The edge of Globex, which verifies.
    pub terminating: SocketAddr,
    /// Acme's PBX.
    pub caller: SocketAddr,
    /// The switch of the provider, which sends plain SHAKEN calls to Globex.
    pub provider: SocketAddr,
    /// Globex's PBX.
    pub callee: SocketAddr,
}

impl Default for Addresses {
    /// Loopback, ports 5060, 5070, 5080, 5081 and 5090.
    fn default() -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { originating: at(5060), terminating: at(5070), caller: at(5080), provider: at(5081), callee: at(5090) }
    }
}

/// What a lab is made with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Lifetime of the end-entity certificates, seconds, 1 hour to 7 days; default 24 hours.
    pub lifetime: i64,
    /// Replace a lab that is there already.
    pub overwrite: bool,
    /// Addresses for the configurations.
    pub addresses: Addresses,
}

impl Default for Options {
    fn default() -> Self {
        Self { lifetime: DEFAULT_LIFETIME, overwrite: false, addresses: Addresses::default() }
    }
}

/// An entity with numbers, a domain, a delegate certificate and a TLS certificate.
#[derive(Debug)]
pub struct Enterprise {
    /// Its directory.
    pub directory: &'static str,
    /// Legal name.
    pub organization: &'static str,
    /// Its domain.
    pub domain: &'static str,
    /// Its numbers.
    pub scope: TnAuthList,
    /// Delegate certificate with SCT, chain without the root.
    pub sti: Credential,
    /// Server certificate of the domain.
    pub tls: Credential,
}

/// A lab, as it was just made. Its keys are in memory, so that it can issue more.
#[derive(Debug)]
pub struct Lab {
    /// Where it lies.
    pub directory: PathBuf,
    /// The trust anchor.
    pub root: Authority,
    /// The authority that issued the STI certificates.
    pub issuing: Authority,
    /// The log that recorded them.
    pub log: TransparencyLog,
    /// The log list, version 3 layout.
    pub log_list: LogList,
    /// The authority of the TLS certificates.
    pub web: Authority,
    /// The caller's side: 12015550100 and 12015550110 to 12015550119.
    pub acme: Enterprise,
    /// The called side: 12025550100 and 12025550110 to 12025550119.
    pub globex: Enterprise,
    /// SHAKEN certificate of the provider with [`SERVICE_PROVIDER_CODE`].
    pub provider: Credential,
}

/// Makes a lab in `directory` at `now` (Unix seconds) and writes it.
///
/// # Errors
/// [`LabError`]. A directory that holds anything but a lab is never touched.
pub fn create(directory: &Path, now: i64, options: &Options) -> Result<Lab, LabError> {
    files::prepare(directory, options.overwrite)?;
    let lab = Lab::issue(directory, now, options.lifetime)?;
    files::write(&lab, options)?;
    Ok(lab)
}

impl Lab {
    /// Issues everything; touches no file.
    fn issue(directory: &Path, now: i64, lifetime: i64) -> Result<Self, LabError> {
        let (root, issuing) = hierarchy("Lab", now)?;
        let web = Authority::root(&authority(lab_name("Lab Web CA"), 0, now))?;
        let log = TransparencyLog::generate("Lab log").map_err(LabError::Log)?;
        let since = u64::try_from(now.saturating_sub(AUTHORITY_BACKDATE)).unwrap_or(0).saturating_mul(1000);
        let mut log_list = LogList::new();
        let listed = log.listed(since, MERGE_DELAY).map_err(LabError::LogList)?;
        log_list.add("vesperd lab", listed).map_err(LabError::LogList)?;

        let enterprise = |directory, organization: &'static str, domain: &'static str, first: &str, block: &str| {
            let profile = DelegateProfile {
                organization: organization.to_owned(),
                dns_name: domain.to_owned(),
                scope: numbers(first, block)?,
                constraints: None,
                lifetime,
            };
            let sti = delegate(&issuing, &profile, now, Transparency::Embed(&[&log]))?;
            let tls = Credential::issue(&web, format!("https://{domain}/"), |key| {
                web.issue_tls(&TlsProfile { dns_name: domain.to_owned(), lifetime }, key, now)
            })?;
            Ok::<_, IssueError>(Enterprise { directory, organization, domain, scope: profile.scope, sti, tls })
        };
        let acme = enterprise("acme", "Acme Example Corp", "acme.example", "12015550100", "12015550110")?;
        let globex = enterprise("globex", "Globex Example Ltd", "globex.example", "12025550100", "12025550110")?;
        let provider = Credential::issue(&issuing, "https://telecom.example/shaken.pem".to_owned(), |key| {
            let profile = ShakenProfile {
                country: "US".to_owned(),
                organization: "Lab Telecom".to_owned(),
                service_provider_code: SERVICE_PROVIDER_CODE.to_owned(),
                serial_number: format!("{SERVICE_PROVIDER_CODE}-1"),
                pointers: pointers("Lab"),
                lifetime,
            };
            issuing.issue_shaken(&profile, key, now)
        })?;
        Ok(Self { directory: directory.to_owned(), root, issuing, log, log_list, web, acme, globex, provider })
    }
}

/// A root without limits, and below it the authority of a provider: limited to its code and to the numbers of both enterprises.
fn hierarchy(name: &str, now: i64) -> Result<(Authority, Authority), IssueError> {
    let root = Authority::root(&authority(lab_name(&format!("{name} SHAKEN ROOT")), 1, now))?;
    let code = TnEntry::Spc(SERVICE_PROVIDER_CODE.to_owned());
    let scope = [code, range("12015550100", 100), range("12025550100", 100)];
    let subject = lab_name(&format!("{name} Telecom SHAKEN CA"));
    let issuing = root.subordinate(&AuthorityProfile {
        scope: Some(TnAuthList::new(scope.to_vec()).map_err(IssueError::TnAuthList)?),
        shaken: Some(pointers(name)),
        ..authority(Name { serial_number: Some("1".to_owned()), ..subject }, 0, now)
    })?;
    Ok((root, issuing))
}

fn authority(subject: Name, path_length: u8, now: i64) -> AuthorityProfile {
    AuthorityProfile {
        subject,
        scope: None,
        path_length,
        not_before: now.saturating_sub(AUTHORITY_BACKDATE),
        not_after: now.saturating_add(AUTHORITY_LIFETIME),
        shaken: None,
    }
}

fn lab_name(common_name: &str) -> Name {
    Name {
        country: "US".to_owned(),
        organization: "vesperd lab".to_owned(),
        common_name: common_name.to_owned(),
        serial_number: None,
    }
}

fn pointers(name: &str) -> ShakenPointers {
    ShakenPointers {
        policy: POLICY,
        crl_url: "https://sti-pa.example/crl".to_owned(),
        crl_issuer: lab_name(&format!("{name} STI-PA CRL")),
    }
}

fn range(start: &str, count: u64) -> TnEntry {
    TnEntry::Range { start: start.to_owned(), count }
}

/// One number, and a block of ten.
fn numbers(first: &str, block: &str) -> Result<TnAuthList, IssueError> {
    TnAuthList::new(vec![TnEntry::One(first.to_owned()), range(block, 10)]).map_err(IssueError::TnAuthList)
}

/// A delegate certificate under a new key, published where `x5u` says: an immutable URL of this very certificate.
fn delegate(
    issuing: &Authority,
    profile: &DelegateProfile,
    now: i64,
    transparency: Transparency<'_>,
) -> Result<Credential, IssueError> {
    let mut credential =
        Credential::issue(issuing, String::new(), |key| issuing.issue_delegate(profile, key, now, transparency))?;
    let digest = sha256(credential.leaf());
    let name = crate::cert::hex(&digest[..8]);
    credential.x5u = format!("https://{}/.well-known/stir/certs/{name}.pem", profile.dns_name);
    Ok(credential)
}
