//! Compact forms (RFC 8225 section 7): the call itself says what was signed.

use super::*;

const CERTIFICATE: &str = "https://exampleretail.example/sti/caller.pem";
const COPY: &str = "https://exampleretail.example/sti/copy.pem";
const CALLEES: &str = "https://exampleretail.example/sti/callee.pem";

const FIRST: &str =
    "sha-256 02:1A:CC:54:27:AB:EB:9C:53:3F:3E:4B:65:2E:7D:46:3F:54:42:CD:54:F1:7A:03:A2:7D:F9:B0:7F:46:19:B2";
const SECOND: &str =
    "sha-256 4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB:3E:4B:65:2E:7D:46:3F:54:42:CD:54:F1";

fn sdp(fingerprints: &[&str]) -> String {
    let lines: String = fingerprints.iter().map(|line| format!("a=fingerprint:{line}\r\n")).collect();
    format!("v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n{lines}m=audio 9 RTP/AVP 0\r\n")
}

fn key(fingerprint: &str) -> Value {
    let (alg, dig) = fingerprint.split_once(' ').unwrap();
    json!({"alg": alg, "dig": dig.replace(':', "")})
}

fn date(seconds: i64) -> Change {
    change(format!("Date {seconds:+}"), move |draft| draft.call.date = Some(NOW + seconds))
}

impl Corpus {
    pub fn compact_forms(&mut self, rng: &mut Rng) {
        let (caller, callee) = (self.number(A), self.number(B));
        self.web.extend([CERTIFICATE, COPY].map(|url| (url.to_owned(), caller.chain.clone())));
        self.web.insert(CALLEES.to_owned(), callee.chain.clone());
        let piece = |ppt: &str, claims| {
            let piece = Piece::new(&caller, ppt, claims);
            Piece { form: Form::Compact, x5u: CERTIFICATE.into(), ..piece }
        };
        let mut draft = Draft::new(SHAKEN, vec![piece("", plain(json!({})))]);
        draft.call.date = Some(NOW);
        let mut changes = common(self, 0);
        changes.extend(self.around(&callee));
        self.vary("compact", &draft, &changes, 30, rng);

        let mut media = draft.clone();
        media.call.body = sdp(&[SECOND, FIRST]);
        media.pieces[0].claims["mky"] = json!([key(FIRST), key(SECOND)]);
        let mut changes = vec![
            claim(0, "mky", Value::Null),
            claim(0, "mky", json!([key(FIRST)])),
            claim(0, "mky", json!([key(SECOND), key(FIRST)])),
            claim(0, "mky", json!([])),
        ];
        for lines in [&[FIRST, SECOND][..], &[FIRST, SECOND, FIRST], &[FIRST], &[]] {
            changes.push(change(format!("{} fingerprints", lines.len()), move |draft| draft.call.body = sdp(lines)));
        }
        changes.extend([
            change("in full", |draft| draft.pieces[0].form = Form::Linked),
            change("another algorithm", |draft| draft.call.body = draft.call.body.replace("sha-256", "sha-384")),
            change("another digit", |draft| draft.call.body = draft.call.body.replace("02:1A", "02:1B")),
            date(5),
        ]);
        self.vary("compact mky", &media, &changes, 15, rng);

        let mut named = draft.clone();
        named.pieces = vec![piece("rcd", plain(json!({"rcd": {"nam": "Caller"}})))];
        let mut changes = self.around(&callee);
        changes.extend([
            claim(0, "rcd", json!({"nam": "caller"})),
            claim(0, "rcd", json!({"nam": ""})),
            claim(0, "rcd", json!({"apn": "12025551000", "nam": "Caller"})),
            claim(0, "crn", json!("Delivery at noon")),
            change("another name", |draft| draft.call.shown = "Another".into()),
            change("no name", |draft| draft.call.shown.clear()),
            change("a reason", |draft| draft.call.reason = Some("Delivery at noon".into())),
            change("a signed reason", |draft| {
                draft.pieces[0].claims["crn"] = json!("Delivery at noon");
                draft.call.reason = Some("Delivery at noon".into());
            }),
        ]);
        self.vary("compact rcd", &named, &changes, 15, rng);
    }

    /// What can be changed around a compact form.
    fn around(&self, callee: &Rc<Party>) -> Vec<Change> {
        let mut changes: Vec<Change> = [5, -5, -60, -61, 60, 61].into_iter().map(date).collect();
        let signed_then = |seconds: i64| {
            change(format!("signed and dated {seconds:+}"), move |draft: &mut Draft| {
                draft.pieces[0].claims["iat"] = json!(NOW + seconds);
                draft.call.date = Some(NOW + seconds);
            })
        };
        changes.extend([60, 61, -60, -61].map(signed_then));
        for ppt in ["shaken", "div", "rph", "foo", "", "rcd"] {
            changes.push(change(format!("field ppt {ppt:?}"), move |draft| {
                draft.pieces[0].field_ppt = Some(ppt.into());
            }));
        }
        for url in [COPY, CALLEES, "https://exampleretail.example/sti/none.pem"] {
            changes.push(change(format!("info {url}"), move |draft| draft.pieces[0].info = Some(url.into())));
        }
        let callee = Rc::clone(callee);
        changes.extend([
            change("another caller asserted", |draft: &mut Draft| draft.call.asserted = Some(OTHER.into())),
            change("no Date", |draft: &mut Draft| draft.call.date = None),
            change("another To", |draft| draft.call.to = C.into()),
            change("sent on", |draft| draft.call.target = C.into()),
            change("sent on, strict", |draft| {
                draft.demands.strict_retarget = true;
                draft.call.target = C.into();
            }),
            change("by the callee", move |draft| {
                draft.pieces[0].signer = Rc::clone(&callee);
                draft.pieces[0].x5u = CALLEES.into();
            }),
            change("with its chain", |draft| draft.pieces[0].form = Form::Inline),
            change("in full", |draft| draft.pieces[0].form = Form::Linked),
            change("with fingerprints", |draft| draft.call.body = sdp(&[FIRST])),
            change("an odd claim", |draft| draft.pieces[0].claims["x"] = json!(1)),
            change("under VESPER", |draft| draft.demands.profile = Profile::Vesper),
        ]);
        changes
    }
}
