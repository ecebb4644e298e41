//! A verdict as one structured header value, for the inside network: a word and parameters.
use super::{Retarget, TokenVerdict, Verdict};
use crate::passport::Identity;
use crate::sip::text::push_decimal;

/// Longest text of one parameter, octets; what is longer is cut.
const MAX_TEXT: usize = 256;
/// Longest value; parameters that would exceed it are left out.
const MAX_VALUE: usize = 2048;

/// Appends the value: `valid`, `invalid` or `none`, and what there is of
///
/// - `profile` (`shaken`, `vesper`), `ppt`, `attest`, `origid`, `orig` (a number), `age` (seconds since `iat`);
/// - `connected`: who has answered, of a response (RFC 9970);
/// - `subject`, `domain` and `spc` of the certificate: its name, its dNSNames, its service provider codes;
/// - `diverted`: who diverted the call, the first one first; `retarget=unproven`;
/// - `name`: `verified` or `unverified`, where a name is signed;
/// - `failed`: checks that failed, of the deciding token or of all.
///
/// All but words and numbers is quoted.
pub fn write_value(verdict: &Verdict, unix: i64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(verdict.word().as_bytes());
    let mut line = Line { start, out };
    if let Some(token) = verdict.valid() {
        line.token(token, unix);
    }
    match verdict.is_name_verified() {
        Some(true) => line.word("name", "verified"),
        Some(false) => line.word("name", "unverified"),
        None => {}
    }
    let mut failed: Vec<&str> = Vec::new();
    let decides = |token: &&TokenVerdict| verdict.valid().is_none_or(|valid| std::ptr::eq(valid, *token));
    for (check, _) in verdict.tokens().iter().filter(decides).flat_map(|token| token.checks.failures()) {
        if !failed.contains(&check.id()) {
            failed.push(check.id());
        }
    }
    line.list("failed", failed.into_iter());
}

struct Line<'a> {
    start: usize,
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    fn token(&mut self, token: &TokenVerdict, unix: i64) {
        self.word("profile", token.profile.name());
        token.ppt.and_then(|ppt| ppt.name()).into_iter().for_each(|name| self.word("ppt", name));
        token.attest.iter().for_each(|attest| self.word("attest", attest.letter()));
        token.origid.iter().for_each(|origid| self.word("origid", origid.as_str()));
        token.orig.iter().for_each(|orig| self.list("orig", std::iter::once(&**orig)));
        token.connected.iter().for_each(|party| self.list("connected", std::iter::once(party.text())));
        if let Some(age) = token.iat.and_then(|iat| u32::try_from(unix.saturating_sub(iat)).ok()) {
            self.out.extend_from_slice(b";age=");
            push_decimal(self.out, age);
        }
        let chain = token.credential.as_ref().and_then(|credential| credential.chain.as_ref().ok());
        if let Some(leaf) = chain.map(|chain| &chain.leaf) {
            self.list("subject", std::iter::once(leaf.subject().as_str()));
            self.list("domain", leaf.dns_names().iter().map(String::as_str));
            if let Some(Ok(list)) = leaf.tn_auth_list() {
                self.list("spc", list.spcs());
            }
        }
        self.list("diverted", token.diversions.iter().map(Identity::text));
        if token.retarget() == Retarget::Unproven {
            self.word("retarget", "unproven");
        }
    }

    fn word(&mut self, name: &str, word: &str) {
        [";", name, "=", word].iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
    }

    /// Texts with commas between them in one quoted string; nothing if there are none.
    fn list<'t>(&mut self, name: &str, texts: impl Iterator<Item = &'t str>) {
        let before = self.out.len();
        [";", name, "=\""].iter().for_each(|part| self.out.extend_from_slice(part.as_bytes()));
        let text = self.out.len();
        for (index, item) in texts.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            for character in item.chars() {
                if self.out.len() - text >= MAX_TEXT {
                    break;
                }
                match character {
                    '"' | '\\' => self.out.extend_from_slice(&[b'\\', character as u8]),
                    _ if character.is_control() => self.out.push(b' '),
                    _ => self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        let is_empty = self.out.len() == text;
        self.out.push(b'"');
        if is_empty || self.out.len() - self.start > MAX_VALUE {
            self.out.truncate(before);
        }
    }
}
