//! Rich call data (RFC 9795): names, cards, digests of what is in the token and of what lies elsewhere.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::*;

const ICON: &str = "https://example.com/photos/q-256x256.png";
const CARD: &str = "https://example.com/q.json";
const IMAGE: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";

/// By the OpenSSL command line.
pub fn digest(hash: &str, octets: &[u8], is_padded: bool) -> String {
    let mut command = Command::new("openssl");
    command.args(["dgst", "-binary", &format!("-{hash}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(octets).unwrap();
    let octets = child.wait_with_output().unwrap().stdout;
    let text = if is_padded { STANDARD.encode(octets) } else { STANDARD_NO_PAD.encode(octets) };
    format!("{hash}-{text}")
}

fn sha256(octets: impl AsRef<[u8]>) -> Value {
    digest("sha256", octets.as_ref(), false).into()
}

fn card(name: &str) -> Value {
    json!(["vcard", [["version", {}, "text", "4.0"], ["fn", {}, "text", name], ["photo", {}, "uri", ICON]]])
}

fn rcd(name: &'static str, value: Value) -> Change {
    change(format!("{name} = {value}"), move |draft| put(&mut draft.pieces[0].claims["rcd"], name, value.clone()))
}

fn rcdi(pointer: &'static str, value: Value) -> Change {
    change(format!("rcdi {pointer} = {value}"), move |draft| {
        let claims = &mut draft.pieces[0].claims;
        if claims["rcdi"].is_null() {
            claims["rcdi"] = json!({});
        }
        put(&mut claims["rcdi"], pointer, value.clone());
    })
}

impl Corpus {
    pub fn rich_call_data(&mut self, rng: &mut Rng) {
        let (caller, callee) = (self.number(A), self.number(B));
        let data = json!({"apn": "12025551000", "icn": ICON, "nam": "Caller"});
        let digests = json!({"/icn": sha256(IMAGE), "/nam": sha256("\"Caller\"")});
        let claims = plain(json!({"rcd": data, "rcdi": digests, "crn": "Delivery at noon"}));
        let mut draft = Draft::new(SHAKEN, vec![Piece::new(&caller, "rcd", claims)]);
        draft.call.content.insert(ICON.into(), IMAGE.to_vec());
        let mut changes = common(self, 0);
        changes.extend(shapes());
        changes.extend(digest_changes());
        changes.push(change("by the callee", move |draft| draft.pieces[0].signer = Rc::clone(&callee)));
        self.vary("rcd", &draft, &changes, 60, rng);
        self.cards(&draft, rng);

        // C-9: in other tokens.
        let mut attested = draft.clone();
        attested.pieces[0].ppt = "shaken".into();
        put(&mut attested.pieces[0].claims, "attest", json!("B"));
        put(&mut attested.pieces[0].claims, "origid", json!(ORIGID));
        let mut changes = common(self, 0);
        changes.extend(digest_changes());
        self.vary("rcd in shaken", &attested, &changes, 8, rng);

        // T-1 to T-6: a third party, beside the token for the number.
        let mut third = draft.clone();
        third.pieces[0].signer = self.number("12025559999");
        put(&mut third.pieces[0].claims, "iss", json!("Example Retail"));
        third.pieces.push(Piece::new(&caller, "", plain(json!({}))));
        let mut changes: Vec<Change> = (0..2).flat_map(|at| common(self, at)).collect();
        changes.extend([claim(0, "iss", Value::Null), claim(0, "iss", json!(7)), claim(0, "iss", json!("Your Bank"))]);
        changes.push(change("in shaken", |draft| {
            draft.pieces[0].ppt = "shaken".into();
            put(&mut draft.pieces[0].claims, "attest", json!("A"));
            put(&mut draft.pieces[0].claims, "origid", json!(ORIGID));
        }));
        self.vary("rcd of another", &third, &changes, 8, rng);
    }

    /// Cards inside and elsewhere.
    fn cards(&mut self, draft: &Draft, rng: &mut Rng) {
        let text = card("Q Branch").to_string();
        let mut inline = draft.clone();
        put(&mut inline.pieces[0].claims["rcd"], "icn", Value::Null);
        put(&mut inline.pieces[0].claims["rcd"], "jcd", card("Q Branch"));
        inline.pieces[0].claims["rcdi"] = json!({"/jcd": sha256(&text), "/jcd/1/2/3": sha256(IMAGE)});
        let mut changes = vec![
            rcdi("/jcd", Value::Null),
            rcdi("/jcd", sha256("another")),
            rcdi("/jcd/1/2/3", Value::Null),
            rcdi("/jcd/1/2/3", sha256(format!("\"{ICON}\""))),
            rcdi("/jcd/1/2/3", json!("sha1-AA")),
            rcdi("/jcd/1/2/4", sha256(IMAGE)),
            rcdi("/jcd/1/1/3", sha256("\"Q Branch\"")),
            rcdi("/jcd/1/1/3", sha256("\"Caller\"")),
            rcdi("/jcl", sha256(&text)),
            rcd("jcl", json!(CARD)),
            rcd("nam", Value::Null),
            rcd("nam", json!("Q Branch")),
            rcd("jcd", card("Caller")),
            rcd("jcd", json!({"fn": "Q"})),
            rcd("jcd", json!(["vcard", []])),
            rcd("jcd", json!(["vcard", [["version", {}, "text", "4.0"]]])),
        ];
        for property in [
            json!(["version", {}, "text", "4.0"]),
            json!(["fn", {}, "text", "Q"]),
            json!(["uid", {}, "text", "1"]),
            json!(["logo", {}, "uri", "https://example.com/l.png"]),
            json!(["url", {}, "uri", "https://example.com/"]),
            json!(["tel", {}, "uri", "tel:+12155551212"]),
            json!(["logo", {}, "uri"]),
            json!(["logo", "", "uri", ""]),
        ] {
            changes.push(change(format!("besides {property}"), move |draft| {
                let properties = draft.pieces[0].claims["rcd"]["jcd"].get_mut(1).and_then(Value::as_array_mut);
                properties.into_iter().for_each(|all| all.push(property.clone()));
            }));
        }
        self.vary("rcd jcd", &inline, &changes, 20, rng);

        let mut linked = inline;
        put(&mut linked.pieces[0].claims["rcd"], "jcd", Value::Null);
        put(&mut linked.pieces[0].claims["rcd"], "jcl", json!(CARD));
        linked.pieces[0].claims["rcdi"] = json!({"/jcl": sha256(&text), "/jcl/1/2/3": sha256(IMAGE)});
        linked.call.content.insert(CARD.into(), text.clone().into_bytes());
        let changes = [
            rcdi("/jcl", Value::Null),
            rcdi("/jcl", sha256("another")),
            rcdi("/jcl", json!("sha256-AA")),
            rcdi("/jcl/1/2/3", Value::Null),
            rcdi("/jcl/1/2/3", json!("sha256-AA")),
            rcdi("/jcd", sha256(&text)),
            rcd("jcl", json!("http://example.com/q.json")),
            rcd("jcl", json!("https://")),
            rcd("jcl", json!(7)),
            rcd("jcl", json!("data:application/json,[]")),
            rcd("jcd", card("Caller")),
            change("another answer", move |draft| drop(draft.call.content.insert(CARD.into(), b"[]".to_vec()))),
        ];
        self.vary("rcd jcl", &linked, &changes, 10, rng);
    }
}

/// Construction (C-1, C-2, C-8), and the name (C-14).
fn shapes() -> Vec<Change> {
    let mut changes = Vec::new();
    for value in [json!(null), json!(7), json!(""), json!("Another"), json!("caller"), json!(["Caller"])] {
        changes.push(rcd("nam", value));
    }
    for value in [json!("+12025551000"), json!(""), json!(7), json!("12025551*")] {
        changes.push(rcd("apn", value));
    }
    for value in [json!("http://example.com/q.png"), json!(""), json!("https://a b"), json!(7), json!(null)] {
        changes.push(rcd("icn", value));
    }
    for value in [json!(null), json!(7), json!([]), json!({}), json!("Caller")] {
        changes.push(claim(0, "rcd", value));
    }
    for value in [json!(null), json!(7), json!({}), json!([]), json!({"/nam": 7})] {
        changes.push(claim(0, "rcdi", value));
    }
    changes.extend([
        claim(0, "crn", Value::Null),
        claim(0, "crn", json!(7)),
        claim(0, "crn", json!("")),
        rcd("odd", json!({"b": 1, "a": [true, "x\"y"]})),
        change("shown as another", |draft: &mut Draft| draft.call.shown = "Another".into()),
        change("only a reason", |draft| {
            put(&mut draft.pieces[0].claims, "rcd", Value::Null);
            put(&mut draft.pieces[0].claims, "rcdi", Value::Null);
        }),
        change("nothing at all", |draft| {
            ["rcd", "rcdi", "crn"].iter().for_each(|name| put(&mut draft.pieces[0].claims, name, Value::Null));
        }),
    ]);
    changes
}

/// Digests (C-4, C-5, C-11).
fn digest_changes() -> Vec<Change> {
    let mut changes = Vec::new();
    for hash in ["sha256", "sha384", "sha512"] {
        for is_padded in [true, false] {
            changes.push(rcdi("/nam", digest(hash, b"\"Caller\"", is_padded).into()));
            changes.push(rcdi("/icn", digest(hash, IMAGE, is_padded).into()));
        }
    }
    let mislabelled = digest("sha384", b"\"Caller\"", false).replace("sha384", "sha256");
    for bad in [json!(mislabelled), json!("sha256-"), json!("SHA256-AA"), json!("md5-AAAA"), json!("")] {
        changes.push(rcdi("/nam", bad.clone()));
        changes.push(rcdi("/icn", bad));
    }
    let image = STANDARD.encode(IMAGE);
    changes.extend([
        rcdi("/nam", sha256("Caller")),
        rcdi("/nam", Value::Null),
        rcdi("/icn", Value::Null),
        rcdi("/icn", sha256("another")),
        rcdi("/icn", sha256(format!("\"{ICON}\""))),
        rcdi("/apn", sha256("\"12025551000\"")),
        rcdi("/apn", sha256("\"12025551001\"")),
        rcdi("/none", sha256("\"Caller\"")),
        rcdi("nam", sha256("\"Caller\"")),
        rcdi("", sha256(format!(r#"{{"apn":"12025551000","icn":"{ICON}","nam":"Caller"}}"#))),
        rcdi("", sha256("another")),
        change("another picture", |draft: &mut Draft| drop(draft.call.content.insert(ICON.into(), b"x".to_vec()))),
        change("a picture inside", move |draft| {
            put(&mut draft.pieces[0].claims["rcd"], "icn", json!(format!("data:image/png;base64,{image}")));
        }),
        change("another picture inside", |draft| {
            put(&mut draft.pieces[0].claims["rcd"], "icn", json!("data:image/png;base64,AAAA"));
        }),
    ]);
    changes
}
