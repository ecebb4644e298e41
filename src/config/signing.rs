//! `[[signing_table]]`, `[[rcd_profile]]`, `pkcs11` of a signer, `[stir.headers]`, `[stir.hsm]`, and the keys of a trunk that say how requests to it are
//! signed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::files::Files;
use super::mistake::Fault;
use super::network::{Names, read_name, refer};
use super::reader::{At, Section};
use super::rows;
use crate::node::signer::{self, Module, Pin};
use crate::passport::digest::Hash;
use crate::passport::ppt::rcd::Assertion;
use crate::passport::ppt::shaken::Attestation;
use crate::proxy::signing::table::{Collision, Entry, Numbers, SigningRow, SigningTable};
use crate::proxy::signing::{Exempt, IdentityHeaders, RichProfile};
use crate::proxy::{self, Trunk};
use crate::sip::text::is_token;
use crate::stir::IdentitySource;

pub(super) const LETTERS: [(&str, Attestation); 3] =
    [("A", Attestation::Full), ("B", Attestation::Partial), ("C", Attestation::Gateway)];
pub(super) const SOURCES: [(&str, IdentitySource); 2] =
    [("from", IdentitySource::From), ("asserted", IdentitySource::AssertedThenFrom)];

/// `[[rcd_profile]]`, before the signers are known.
pub(super) struct Profiles<'a, 'c> {
    pub names: Names,
    sections: Vec<(Section<'a, 'c>, Option<Assertion>)>,
}

/// What tables and trunks refer to.
pub(super) struct Known<'k> {
    pub signers: &'k Names,
    pub profile_names: &'k Names,
    pub profiles: &'k [Option<Arc<RichProfile>>],
}

impl<'a, 'c> Profiles<'a, 'c> {
    /// Reads the claims of all profiles.
    pub fn read(root: &Section<'a, 'c>, files: &Files<'_>) -> Self {
        let mut names = Names::new();
        let mut sections = Vec::new();
        for (position, mut section) in root.sections("rcd_profile").into_iter().enumerate() {
            read_name(&mut section, "rcd_profile", position, &mut names);
            let assertion = section.required("file", "a TOML or JSON file").and_then(|at| {
                let read = read_claims(&files.path(at.value), files);
                read.map_err(|fault| section.wrong(at.offset, "file", fault)).ok()
            });
            sections.push((section, assertion));
        }
        Self { names, sections }
    }

    /// Adds who signs them. In the order of the file.
    pub fn finish(self, signers: &Names) -> (Names, Vec<Option<Arc<RichProfile>>>) {
        let profiles = self.sections.into_iter().map(|(section, assertion)| {
            let signer = refer(&section, "signer", "signer", signers).map(|at| at.value);
            let issuer = section.string("issuer").map(|at| at.value.to_owned());
            if issuer.is_some() && signer.is_none() {
                let reason = "somebody else speaks with a certificate of his own (RFC 9795 10)";
                section.wrong(
                    section.offset_of("issuer"),
                    "issuer",
                    Fault::Conflict { reason, remedy: "add signer, or remove issuer" },
                );
            }
            section.finish();
            Some(Arc::new(RichProfile { assertion: assertion?, signer, issuer }))
        });
        let profiles = profiles.collect();
        (self.names, profiles)
    }
}

/// `nam`, `apn`, `icn`, `jcd`, `jcl`, `crn`, `rcdi`, and `content`: local copies of what the links lead to, by pointer.
fn read_claims(path: &Path, files: &Files<'_>) -> Result<Assertion, Fault> {
    const EXPECTED: &str = "a table with nam, apn, icn, jcd or jcl, crn, rcdi, content";
    let wrong = |why: String| Fault::Row { path: path.to_owned(), line: 1, why };
    let octets = files.read(path)?;
    let text = String::from_utf8(octets).map_err(|_| Fault::Content { path: path.to_owned(), expected: EXPECTED })?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let table: Map<String, Value> = if is_json {
        serde_json::from_str(&text).map_err(|error| Fault::Row {
            path: path.to_owned(),
            line: error.line() as u64,
            why: error.to_string(),
        })?
    } else {
        toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?
    };
    let (mut rcd, mut rcdi, mut crn) = (Map::new(), Map::new(), None);
    let mut content = Map::new();
    for (key, value) in table {
        match (key.as_str(), value) {
            ("nam" | "apn" | "icn" | "jcd" | "jcl", value) => drop(rcd.insert(key, value)),
            ("crn", Value::String(reason)) => crn = Some(reason),
            ("rcdi", Value::Object(digests)) => rcdi = digests,
            ("content", Value::Object(copies)) => content = copies,
            (other, _) => return Err(wrong(format!("`{other}` is no claim of this form; give {EXPECTED}"))),
        }
    }
    for (pointer, copy) in content {
        let named = copy.as_str().ok_or_else(|| wrong(format!("content of {pointer} is no file; give its path")))?;
        let digest = Hash::Sha256.unpadded(&files.read(&path.parent().unwrap_or(Path::new("")).join(named))?);
        rcdi.insert(pointer, Value::String(digest));
    }
    let present = |map: Map<String, Value>| (!map.is_empty()).then_some(Value::Object(map));
    if !rcd.is_empty() {
        rcd.entry("nam").or_insert_with(|| Value::String(String::new())); // C-1
    }
    Assertion::new(present(rcd), present(rcdi), crn).map_err(|error| wrong(error.to_string()))
}

/// Reads the tables of numbers.
pub(super) fn read_tables(
    root: &Section<'_, '_>,
    files: &Files<'_>,
    known: &Known<'_>,
    proxy: &mut proxy::Config,
) -> Names {
    let mut names = Names::new();
    for (position, mut section) in root.sections("signing_table").into_iter().enumerate() {
        let name = read_name(&mut section, "signing_table", position, &mut names);
        let source = section.choice("identity_source", &SOURCES).unwrap_or(IdentitySource::From);
        if let Some(At { value, offset }) = section.required("file", "a CSV file") {
            let path = files.path(value);
            let text = files.read(&path).map_err(|fault| vec![fault]);
            match text.and_then(|text| parse_table(&path, name, &text, source, known)) {
                Ok(table) => proxy.signing_tables.push(Arc::new(table)),
                Err(faults) => faults.into_iter().for_each(|fault| section.wrong(offset, "file", fault)),
            }
        }
        section.finish();
    }
    names
}

/// Positions of the columns.
#[derive(Clone, Copy, Default)]
struct Columns {
    number: usize,
    signer: usize,
    attest: Option<usize>,
    rcd: Option<usize>,
}

fn read_columns(header: &csv::StringRecord) -> Result<Columns, String> {
    let at = |wanted: &str| header.iter().position(|name| name.trim_start_matches('\u{feff}') == wanted);
    let known = ["number", "signer", "attest", "rcd"];
    if let Some(other) = header.iter().find(|name| !known.contains(&name.trim_start_matches('\u{feff}'))) {
        return Err(format!("unknown column \"{other}\"; give number, signer, attest, rcd"));
    }
    match (at("number"), at("signer")) {
        (Some(number), Some(signer)) => Ok(Columns { number, signer, attest: at("attest"), rcd: at("rcd") }),
        _ => Err("the first line names the columns; give number,signer".to_owned()),
    }
}

/// What a row says, as far as it decides which rows say the same.
type Said = (Option<usize>, Option<char>, Option<usize>);

fn parse_table(
    path: &Path,
    name: String,
    text: &[u8],
    source: IdentitySource,
    known: &Known<'_>,
) -> Result<SigningTable, Vec<Fault>> {
    let (mut entries, mut said_by_rows) = (Vec::new(), Vec::new());
    let mut places: HashMap<Said, u32> = HashMap::new();
    rows::read(path, text, read_columns, |columns, record, line| {
        let (numbers, said) = read_row(*columns, record, known)?;
        let row = *places.entry(said).or_insert_with(|| {
            said_by_rows.push(row_of(said, known));
            said_by_rows.len() as u32 - 1
        });
        entries.push(Entry { numbers, row, line });
        Ok(())
    })?;
    SigningTable::new(name, source, said_by_rows, entries).map_err(|collision| {
        let (line, why) = match collision {
            Collision::Twice { first, second } => {
                (second, format!("the numbers stand on line {first} already; keep one"))
            }
            Collision::Crossing { first, second } => {
                (second, format!("the range overlaps that of line {first}, and none lies in the other; divide one"))
            }
        };
        vec![rows::fault(path, line.into(), why)]
    })
}

fn read_row(columns: Columns, record: &csv::StringRecord, known: &Known<'_>) -> Result<(Numbers, Said), String> {
    let cell = |column: Option<usize>| column.and_then(|column| record.get(column)).unwrap_or_default();
    let width = 2 + usize::from(columns.attest.is_some()) + usize::from(columns.rcd.is_some());
    if record.len() > width {
        return Err(format!("{} cells under {width} columns", record.len()));
    }
    let written = cell(Some(columns.number));
    let numbers = Numbers::parse(written).ok_or_else(|| {
        format!("\"{written}\" names no numbers; give +4930123456, +49301000-+49301999 or +4930* (1 to 15 digits)")
    })?;
    let named = |what: &str, name: &str, names: &Names| match names.get(name) {
        Some((position, _)) => Ok(*position),
        None => Err(format!("there is no {what} \"{name}\"")),
    };
    let signer = match cell(Some(columns.signer)) {
        "" => return Err("no signer; give one, or - for numbers whose calls are not signed".to_owned()),
        "-" => None,
        name => Some(named("signer", name, known.signers)?),
    };
    let attest = match cell(columns.attest) {
        "" => None,
        letter if Attestation::from_letter(letter).is_some() => letter.chars().next(),
        other => return Err(format!("attest \"{other}\" is none of A, B, C")),
    };
    let rich = match cell(columns.rcd) {
        "" => None,
        name => Some(named("rcd_profile", name, known.profile_names)?),
    };
    Ok((numbers, (signer, attest, rich)))
}

fn row_of((signer, attest, rich): Said, known: &Known<'_>) -> SigningRow {
    let attestation = attest.and_then(|letter| Attestation::from_letter(letter.encode_utf8(&mut [0; 4])));
    let rich = rich.and_then(|place| known.profiles.get(place)).cloned().flatten();
    SigningRow { signer, attestation, rich }
}

/// The keys of a trunk. `country_code` is that of the dial plan.
pub(super) fn read_trunk(
    section: &Section<'_, '_>,
    trunk: &mut Trunk,
    signers: &Names,
    tables: &Names,
    country_code: Option<&str>,
) {
    trunk.sign = refer(section, "sign", "signer", signers).map(|at| at.value);
    let signing = &mut trunk.signing;
    signing.table = refer(section, "signing_table", "signing_table", tables).map(|at| at.value);
    signing.attestation = section.choice("sign_attest", &LETTERS);
    let expected = "\"emergency\", \"international\" or leading digits such as \"+49\"";
    for At { value, offset } in section.read_list("unsigned_to", expected, |text| Some(text.to_owned())) {
        let digits = value.strip_prefix('+').unwrap_or(&value);
        let is_prefix = (1..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        match value.as_str() {
            "emergency" => signing.exempt.push(Exempt::Emergency),
            "international" => match country_code {
                Some(code) => signing.exempt.push(Exempt::International { country_code: code.to_owned() }),
                None => {
                    let reason = "nothing says what is abroad";
                    let remedy = "give country_code in [stir.dial_plan]";
                    section.wrong(offset, "unsigned_to", Fault::Conflict { reason, remedy });
                }
            },
            _ if is_prefix => signing.exempt.push(Exempt::Prefix(digits.to_owned())),
            _ => section.wrong(offset, "unsigned_to", Fault::Unreadable { found: value, expected }),
        }
    }
    signing.divert = section.bool("divert", false);
    let namespace = |text: &str| (is_token(text.as_bytes()) && !text.contains('.')).then(|| text.to_owned());
    let namespaces = section.read_list("sign_priority", "a namespace such as \"esnet\"", namespace);
    signing.priorities = namespaces.into_iter().map(|at| at.value).collect();
    signing.messages = section.bool("sign_messages", false);
    let needs = ["sign_attest", "unsigned_to", "divert", "sign_priority", "sign_messages"];
    if trunk.sign.is_none() && trunk.signing.table.is_none() && section.is_absent("sign") {
        for key in needs.into_iter().filter(|key| !section.is_absent(key)) {
            let reason = "nobody signs requests to this trunk";
            section.wrong(
                section.offset_of(key),
                key,
                Fault::Conflict { reason, remedy: "add sign or signing_table, or remove it" },
            );
        }
    }
}

/// S-6: whoever gets no tokens gets none of ours, and has nothing to answer by one (RFC 9970).
pub(super) fn check_border(section: &Section<'_, '_>, trunk: &Trunk) {
    let signs = trunk.signs() || !section.is_absent("sign") || !section.is_absent("signing_table");
    let conflict = |reason, remedy| {
        section.wrong(section.offset_of("identity"), "identity", Fault::Conflict { reason, remedy });
    };
    if !trunk.headers.withholds_tokens {
        return;
    }
    if signs {
        let remedy = "remove identity = \"remove\", or sign and signing_table";
        conflict("requests to this trunk would be signed, and lose the token again", remedy);
    }
    if trunk.connected.signs() || trunk.connected.verify.is_some() {
        let remedy = "remove identity = \"remove\", or [trunk.connected]";
        conflict("connected identity needs tokens in both directions", remedy);
    }
}

/// `[stir.headers]`.
pub(super) fn read_headers(section: Section<'_, '_>, headers: &mut IdentityHeaders) {
    let name = |key: &'static str, place: &mut String| {
        let read = |text: &str| is_token(text.as_bytes()).then(|| text.to_owned());
        if let Some(at) = section.read(key, "the name of a header", read) {
            *place = at.value;
        }
    };
    name("bypass", &mut headers.bypass);
    name("attestation", &mut headers.attestation);
    name("origination", &mut headers.origination);
    section.finish();
}

/// `[stir.hsm]`.
pub(super) fn read_hsm(section: Section<'_, '_>, signer: &mut signer::Config) {
    section.size("threads", (1, 64), &mut signer.threads);
    section.size("queue", (1, 65_536), &mut signer.queue);
    if let Some(millis) = section.number("check_timeout_ms", (100, 60_000)) {
        signer.check_timeout = Duration::from_millis(millis);
    }
    section.finish();
}

/// `pkcs11 = { module, token, pin_file, label }` of a signer.
pub(super) fn read_module(signer: &Section<'_, '_>, files: &Files<'_>) -> Option<Module> {
    let section = signer.section("pkcs11")?;
    let module = section.required("module", "the shared library of the module");
    let token = section.required("token", "the label of the token");
    let label = section.required("label", "the label of the private key");
    let pin = section.required("pin_file", "a file with the PIN");
    section.finish();
    let (module, token, label, pin) = (module?, token?, label?, pin?);
    let path = files.path(module.value);
    if !path.is_file() {
        let fault = Fault::File { path, kind: std::io::ErrorKind::NotFound };
        signer.wrong(module.offset, "pkcs11.module", fault);
        return None;
    }
    let pin_path = files.path(pin.value);
    let pin = files.read(&pin_path).and_then(|octets| {
        let expected = "a PIN on one line";
        Pin::read(octets).ok_or(Fault::Content { path: pin_path, expected })
    });
    let pin = pin.map_err(|fault| signer.wrong(signer.offset_of("pkcs11"), "pkcs11.pin_file", fault)).ok()?;
    Some(Module { path, token: token.value.to_owned(), label: label.value.to_owned(), pin })
}
