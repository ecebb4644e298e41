//! `vesperd passport`: make, show and verify PASSporTs.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::printable;
use crate::cert::{Certificate, certificates_from_pem_or_der};
use crate::passport::ppt::shaken::Attestation;
use crate::passport::{Claims, Config, Jws, ProtectedHeader, Token};
use crate::sip::{Framing, Index, Limits, Message, identity::IdentityValue, parse};
use crate::stir::authentication::{Signer, SignerConfig};
use crate::stir::verification::Profile;

mod verify;

const EXAMPLES: &str = "\
Examples:
  vesperd passport sign --profile vesper --cert chain.pem --key key.pem \\
      --x5u https://shop.example/sti/leaf.pem --orig +12015550100 --dest +12155551213
  vesperd passport decode \"$IDENTITY\"
  vesperd passport verify --profile vesper --anchors root.pem --log-list logs.json \"$IDENTITY\"
  vesperd passport verify --anchors anchors/ --cert fetched.pem --at 1443208345 --json < token.txt

Exit codes:
  0  signed, readable, or valid
  1  refused, unreadable, or invalid
  2  usage, or a file that can not be read";

/// Make, show and verify PASSporTs (RFC 8225) and Identity header values (RFC 8224).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PassportCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Sign, and print the Identity header value.
    #[command(after_help = EXAMPLES)]
    Sign(SignArgs),
    /// Print what a token says, without believing it.
    #[command(after_help = EXAMPLES)]
    Decode(DecodeArgs),
    /// Verify a token, check by check.
    #[command(after_help = EXAMPLES)]
    Verify(verify::VerifyArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileName {
    Shaken,
    Vesper,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Shaken => Self::Shaken,
            ProfileName::Vesper => Self::Vesper,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "verbatim")]
enum AttestName {
    A,
    B,
    C,
}

#[derive(Debug, Args)]
struct SignArgs {
    /// Certificate chain, leaf first; PEM or DER.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Private key of the leaf; PKCS#8 or SEC1, PEM or DER.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the chain is published.
    #[arg(long, value_name = "URL")]
    x5u: String,
    /// Caller: a telephone number or a URI.
    #[arg(long, value_name = "NUMBER|URI")]
    orig: String,
    /// Callee: a telephone number or a URI.
    #[arg(long, value_name = "NUMBER|URI")]
    dest: String,
    /// Make a SHAKEN token with this attestation.
    #[arg(long, value_enum)]
    attest: Option<AttestName>,
    /// UNIX seconds for `iat`; the present time if absent.
    #[arg(long, value_name = "UNIX", allow_negative_numbers = true)]
    at: Option<i64>,
    /// `vesper` puts the chain into `x5c`.
    #[arg(long, value_enum, default_value_t = ProfileName::Shaken)]
    profile: ProfileName,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DecodeArgs {
    /// Identity header value or bare token; `-` or none is the standard input.
    token: Option<String>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Why a command ends without a result.
#[derive(Debug)]
enum Stop {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Refused(String),
}

impl PassportCommand {
    /// Runs the command on the process's standard streams.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match &self.action {
            Action::Sign(args) => args.run().map(|text| (text, true)),
            Action::Decode(args) => args.run().map(|text| (text, true)),
            Action::Verify(args) => args.run(),
        };
        match result {
            Ok((text, good)) => {
                // A closed pipe is the reader's choice; there is nobody left to tell.
                let written = io::stdout().lock().write_all(text.as_bytes()).is_ok();
                if good && written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(Stop::Usage(sentence)) => complain(&sentence, 2),
            Err(Stop::Refused(sentence)) => complain(&sentence, 1),
        }
    }
}

fn complain(sentence: &str, code: u8) -> ExitCode {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(io::stderr().lock(), "vesperd passport: {}", printable(sentence));
    ExitCode::from(code)
}

#[allow(clippy::disallowed_methods)] // a command is a process of its own and reads the clock
fn present(at: Option<i64>) -> i64 {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    at.unwrap_or_else(|| i64::try_from(clock()).unwrap_or(i64::MAX))
}

fn read(path: &Path) -> Result<Vec<u8>, Stop> {
    std::fs::read(path).map_err(|error| Stop::Usage(format!("{}: {error}", path.display())))
}

fn read_chain(path: &Path) -> Result<Vec<Vec<u8>>, Stop> {
    let blocks = certificates_from_pem_or_der(&read(path)?).into_iter();
    blocks.map(|block| block.map_err(|error| Stop::Usage(format!("{}: {error}", path.display())))).collect()
}

/// The token as given, unfolded, without the name of the header field.
fn read_token(argument: Option<&str>) -> Result<String, Stop> {
    let mut text = match argument {
        Some(text) if text != "-" => text.to_owned(),
        _ => {
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(256 * 1024)
                .read_to_string(&mut text)
                .map_err(|error| Stop::Usage(error.to_string()))?;
            text
        }
    };
    text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let value = ["Identity:", "identity:", "y:"].iter().find_map(|name| text.strip_prefix(name)).unwrap_or(&text);
    match value.trim() {
        "" => Err(Stop::Usage("no token".into())),
        value => Ok(value.to_owned()),
    }
}

/// A request with these parties, to sign or verify over.
fn request(orig: &str, dest: &str, identity: &str) -> String {
    let address = |party: &str| match party.split_once(':') {
        Some(_) => format!("<{party}>"),
        None => match party.strip_prefix('+') {
            Some(number) => format!("<tel:+{number}>"),
            None => format!("<tel:{party}>"),
        },
    };
    let uri = address(dest);
    let uri = uri.trim_matches(['<', '>']);
    format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/TCP invalid;branch=z9hG4bK0\r\nMax-Forwards: 70\r\nFrom: {};tag=0\r\nTo: {}\r\n\
Call-ID: 0\r\nCSeq: 1 INVITE\r\n{identity}Content-Length: 0\r\n\r\n",
        address(orig),
        address(dest),
    )
}

fn with_request<T>(text: &str, f: impl FnOnce(Message<'_>) -> T) -> Result<T, Stop> {
    let limits = Limits { head: 512 * 1024, identity_value: 256 * 1024, ..Limits::default() };
    let mut index = Index::new();
    match parse(text.as_bytes(), &mut index, Framing::Stream, &limits) {
        Ok(message) if message.fault().is_none() => Ok(f(message)),
        _ => Err(Stop::Usage("caller, callee or token do not fit into a SIP request".into())),
    }
}

impl SignArgs {
    fn run(&self) -> Result<String, Stop> {
        let unix = present(self.at);
        let chain = read_chain(&self.cert)?;
        let mut config = SignerConfig::new(self.profile.into(), chain, read(&self.key)?, self.x5u.clone());
        config.attestation = self.attest.map(|attest| match attest {
            AttestName::A => Attestation::Full,
            AttestName::B => Attestation::Partial,
            AttestName::C => Attestation::Gateway,
        });
        let signer = Signer::new(config).map_err(|error| Stop::Refused(error.to_string()))?;
        for warning in signer.warnings() {
            let _ = writeln!(io::stderr().lock(), "vesperd passport: {}", printable(&warning.to_string()));
        }
        let mut origid = [0; 16];
        aws_lc_rs::rand::fill(&mut origid).map_err(|_| Stop::Refused("no random octets".into()))?;
        let mut lines = Vec::new();
        with_request(&request(&self.orig, &self.dest, ""), |message| signer.sign(unix, message, origid, &mut lines))?
            .map_err(|error| Stop::Refused(error.to_string()))?;
        let lines = String::from_utf8_lossy(&lines);
        let field = |name: &str| lines.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let (date, identity) = (field("Date: "), field("Identity: "));
        Ok(if self.json { line(&json!({"identity": identity, "date": date})) } else { format!("{identity}\n") })
    }
}

fn line(value: &impl Serialize) -> String {
    // Strings, numbers and lists of them: nothing that could fail to serialize.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

/// Bounds for the command line: nobody is attacked here.
fn bounds() -> Config {
    Config { max_token: 256 * 1024, max_payload: 128 * 1024, ..Config::default() }
}

fn full_form(digest: &[u8]) -> Result<Jws<'_>, Stop> {
    match Token::parse(digest, &bounds()) {
        Ok(Token::Full(jws)) => Ok(jws),
        Ok(Token::Compact { .. }) => Err(Stop::Refused("a compact form says nothing by itself".into())),
        Err(error) => Err(Stop::Refused(error.to_string())),
    }
}

fn read_field(value: &str) -> Result<IdentityValue<'_>, Stop> {
    IdentityValue::parse(value.as_bytes(), 0..value.len())
        .map_err(|_| Stop::Refused("no Identity value or token".into()))
}

fn json_of(octets: &[u8]) -> Result<Value, Stop> {
    serde_json::from_slice(octets).map_err(|error| Stop::Refused(error.to_string()))
}

impl DecodeArgs {
    fn run(&self) -> Result<String, Stop> {
        let value = read_token(self.token.as_deref())?;
        let field = read_field(&value)?;
        let jws = full_form(field.digest)?;
        let mut buffer = Vec::new();
        // The header is decoded like a payload to show it whole, also when it is refused.
        let header = Jws { payload: jws.header, ..jws };
        let refused = |error: crate::passport::JwsError| Stop::Refused(error.to_string());
        let header_json = json_of(header.decode_payload(&mut buffer).map_err(refused)?)?;
        let payload = jws.decode_payload(&mut buffer).map_err(refused)?;
        let payload_json = json_of(payload)?;
        let mut faults = Vec::new();
        let lenient = Config { lenient_iat: true, ..bounds() };
        if let Err(error) = Claims::parse(payload, &lenient) {
            faults.push(error.to_string());
        }
        let certificates = match ProtectedHeader::parse(jws.header, &bounds()) {
            Err(error) => {
                faults.push(error.to_string());
                Vec::new()
            }
            Ok(header) => header.x5c.iter().map(|der| subject(der)).collect(),
        };
        let info = String::from_utf8_lossy(field.info);
        if self.json {
            let faults = (!faults.is_empty()).then_some(&faults);
            return Ok(line(&json!({
                "header": header_json, "payload": payload_json, "certificates": certificates,
                "signature": String::from_utf8_lossy(jws.signature), "info": info, "faults": faults,
            })));
        }
        let mut text = String::new();
        let mut show = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<12} {}", printable(value));
        };
        let without_x5c = |mut header: Value| {
            if let Some(members) = header.as_object_mut() {
                members.remove("x5c");
            }
            header.to_string()
        };
        show("header", &without_x5c(header_json));
        certificates.iter().for_each(|certificate| show("x5c", certificate));
        show("payload", &payload_json.to_string());
        show("signature", &String::from_utf8_lossy(jws.signature));
        if !info.is_empty() {
            show("info", &info);
        }
        faults.iter().for_each(|fault| show("FAULT", fault));
        Ok(text)
    }
}

fn subject(der: &[u8]) -> String {
    Certificate::from_der(der).map_or_else(|error| error.to_string(), |certificate| certificate.subject())
}
