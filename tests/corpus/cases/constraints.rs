//! JWTClaimConstraints (RFC 8226) and EnhancedJWTClaimConstraints (RFC 9118): certificates with them, and tokens of all sorts under each.

use rcgen::CustomExtension;
use vesperd::cert::oid;

use super::vesper::numbers;
use super::*;

fn names(names: &[&str]) -> Vec<u8> {
    tlv(0x30, &names.iter().flat_map(|name| tlv(0x16, name.as_bytes())).collect::<Vec<_>>())
}

fn permitted_values(list: &[(&str, &[&str])]) -> Vec<u8> {
    let entry = |(name, values): &(&str, &[&str])| {
        let values: Vec<u8> = values.iter().flat_map(|value| tlv(0x0c, value.as_bytes())).collect();
        tlv(0x30, &[tlv(0x16, name.as_bytes()), tlv(0x30, &values)].concat())
    };
    tlv(0x30, &list.iter().flat_map(entry).collect::<Vec<_>>())
}

/// Members that are empty are left out.
pub fn extension_of(
    is_enhanced: bool,
    include: &[&str],
    permitted: &[(&str, &[&str])],
    exclude: &[&str],
) -> CustomExtension {
    let mut body = Vec::new();
    if !include.is_empty() {
        body.extend(tlv(0xa0, &names(include)));
    }
    if !permitted.is_empty() {
        body.extend(tlv(0xa1, &permitted_values(permitted)));
    }
    if !exclude.is_empty() {
        body.extend(tlv(0xa2, &names(exclude)));
    }
    raw(is_enhanced, tlv(0x30, &body))
}

fn raw(is_enhanced: bool, value: Vec<u8>) -> CustomExtension {
    let id = if is_enhanced { &oid::ENHANCED_JWT_CLAIM_CONSTRAINTS } else { &oid::JWT_CLAIM_CONSTRAINTS };
    extension(id, value)
}

impl Corpus {
    pub fn constraints(&mut self, rng: &mut Rng) {
        let parties: Vec<(&str, Rc<Party>)> = certificates()
            .into_iter()
            .map(|(name, extensions)| {
                let mut params = vesper_params(&numbers());
                params.custom_extensions.extend(extensions);
                (name, self.recorded(params))
            })
            .collect();
        for (certificate, party) in &parties {
            for (name, ppt, claims) in tokens() {
                let draft = Draft::new(VESPER, vec![Piece::new(party, ppt, claims)]);
                self.add_draft("constraints", format!("{certificate}: {name}"), &draft);
                let mut other = draft.clone();
                if rng.chance(500) {
                    other.demands.strict_claims = true;
                } else {
                    other.demands.profile = Profile::Shaken;
                }
                let how = if other.demands.strict_claims { "strict" } else { "under SHAKEN" };
                self.add_draft("constraints", format!("{certificate}: {name}, {how}"), &other);
            }
            // Two faults.
            let (name, ppt, claims) = tokens().swap_remove(rng.below(4) as usize);
            let mut draft = Draft::new(VESPER, vec![Piece::new(party, ppt, claims)]);
            let changes = common(self, 0);
            let change = &changes[rng.below(changes.len() as u64) as usize];
            (change.make)(&mut draft);
            self.add_draft("constraints", format!("{certificate}: {name}, {}", change.name), &draft);
        }
    }
}

/// Name, `ppt` and claims.
fn tokens() -> Vec<(&'static str, &'static str, Value)> {
    let attested = |attest: &str| plain(json!({"attest": attest, "origid": ORIGID}));
    let rcd = json!({"apn": "12025551000", "nam": "Caller"});
    vec![
        ("baseline", "", plain(json!({}))),
        ("attest A", "shaken", attested("A")),
        ("attest C", "shaken", attested("C")),
        ("rcd", "rcd", plain(json!({"rcd": rcd}))),
        ("rcd with digest", "rcd", plain(json!({"rcd": rcd, "rcdi": {"": "sha256-AA"}}))),
        ("a reason", "rcd", plain(json!({"crn": "Delivery"}))),
        ("another reason", "rcd", plain(json!({"crn": "\"Delivery\"", "rcd": {"nam": "Other"}}))),
        ("odd claims", "", plain(json!({"flag": true, "level": 3, "list": ["a", {"c": 1, "b": null}]}))),
        ("other odd claims", "", plain(json!({"flag": "true", "level": "3", "list": "[]"}))),
    ]
}

fn certificates() -> Vec<(&'static str, Vec<CustomExtension>)> {
    let basic = |include: &[&str], permitted: &[(&str, &[&str])]| vec![extension_of(false, include, permitted, &[])];
    let enhanced = |include: &[&str], permitted: &[(&str, &[&str])], exclude: &[&str]| {
        vec![extension_of(true, include, permitted, exclude)]
    };
    let body = |is_enhanced: bool, parts: &[Vec<u8>]| vec![raw(is_enhanced, tlv(0x30, &parts.concat()))];
    let exact = r#"{"apn":"12025551000","nam":"Caller"}"#;
    let spaced = "{ \"nam\": \"Caller\",\n \"apn\": \"12025551000\" }";
    vec![
        ("none", vec![]),
        ("include attest and origid", basic(&["attest", "origid"], &[])),
        ("include rcd", basic(&["rcd"], &[])),
        ("include orig", basic(&["orig", "iat"], &[])),
        ("permit attest A", basic(&[], &[("attest", &["A"])])),
        ("permit attest A or B, and origid", basic(&["origid"], &[("attest", &["A", "B"])])),
        ("permit a quoted attest", basic(&[], &[("attest", &["\"A\""])])),
        ("permit a reason", basic(&[], &[("crn", &["Delivery"])])),
        ("include and permit a reason", basic(&["crn"], &[("crn", &["Rendezvous", "Delivery"])])),
        ("permit rcd", basic(&[], &[("rcd", &[exact])])),
        ("permit rcd with spaces", basic(&[], &[("rcd", &["{}", spaced])])),
        ("permit another rcd", basic(&[], &[("rcd", &[r#"{"nam":"Caller"}"#, "Caller"])])),
        (
            "permit odd values",
            basic(&[], &[("flag", &["true"]), ("level", &["3"]), ("list", &["[\"a\",{\"b\":null,\"c\":1}]"])]),
        ),
        ("permit odd values otherwise", basic(&[], &[("flag", &["True"]), ("level", &["3.0"])])),
        ("permit a list in another order", basic(&[], &[("list", &["[{\"b\":null,\"c\":1},\"a\"]"])])),
        ("permit an iat", basic(&[], &[("iat", &["1767225600"])])),
        ("permit another iat", basic(&[], &[("iat", &["1767225601"])])),
        ("permit an orig", basic(&[], &[("orig", &[r#"{"tn":"12015550100"}"#])])),
        ("permit another orig", basic(&[], &[("orig", &[r#"{"tn":"12015550101"}"#])])),
        ("enhanced include attest", enhanced(&["attest"], &[], &[])),
        ("enhanced permit", enhanced(&[], &[("attest", &["A"]), ("crn", &["Delivery"])], &[])),
        ("exclude rcd", enhanced(&[], &[], &["rcd"])),
        ("exclude rcdi", enhanced(&["rcd"], &[], &["rcdi"])),
        ("exclude crn, permit attest", enhanced(&[], &[("attest", &["A"])], &["crn"])),
        ("include and exclude attest", enhanced(&["attest"], &[], &["attest"])),
        ("exclude another case", enhanced(&[], &[], &["ATTEST"])),
        ("exclude orig", enhanced(&[], &[], &["orig"])),
        ("exclude iat, include rcd", enhanced(&["rcd"], &[], &["iat"])),
        ("exclude mky", enhanced(&["attest", "origid"], &[], &["mky"])),
        ("both", [basic(&["attest"], &[]), enhanced(&["attest"], &[], &[])].concat()),
        ("basic twice", [basic(&["attest"], &[]), basic(&["attest"], &[])].concat()),
        ("basic that excludes", vec![extension_of(false, &[], &[], &["rcd"])]),
        ("nothing", body(false, &[])),
        ("an empty list of names", body(true, &[tlv(0xa0, &tlv(0x30, &[]))])),
        ("an empty list of values", body(true, &[tlv(0xa1, &permitted_values(&[("attest", &[])]))])),
        ("a name of nothing", basic(&[""], &[])),
        ("a name not ASCII", basic(&["\u{e9}"], &[])),
        ("in another order", body(true, &[tlv(0xa2, &names(&["rcd"])), tlv(0xa0, &names(&["attest"]))])),
        ("and more", vec![raw(true, [tlv(0x30, &tlv(0xa0, &names(&["attest"]))), vec![0]].concat())]),
        ("no sequence", vec![raw(false, tlv(0x31, &tlv(0xa0, &names(&["attest"]))))]),
        ("another tag", body(true, &[tlv(0xa3, &names(&["attest"]))])),
        ("names of UTF-8", body(false, &[tlv(0xa0, &tlv(0x30, &tlv(0x0c, b"attest")))])),
    ]
}
