//! Messages (RFC 9475): `msgi` over the body.

use super::*;

const BODY: &str = "Hello, STIR messaging\r\n";

impl Corpus {
    pub fn messages(&mut self, rng: &mut Rng) {
        let digest = rich::digest("sha256", BODY.as_bytes(), true);
        let caller = self.number(A);
        let mut draft = Draft::new(SHAKEN, vec![Piece::new(&caller, "msg", plain(json!({"msgi": digest})))]);
        draft.call.method = "MESSAGE";
        draft.call.body = BODY.into();
        let mut changes = common(self, 0);
        for body in ["Hello, STIR messaging\n", "Hello, STIR messaging\r\n ", "", "hello, STIR messaging\r\n", "\r\n"] {
            changes.push(change(format!("body {body:?}"), move |draft| draft.call.body = body.into()));
        }
        for hash in ["sha256", "sha384", "sha512"] {
            for is_padded in [true, false] {
                changes.push(claim(0, "msgi", json!(rich::digest(hash, BODY.as_bytes(), is_padded))));
                changes.push(claim(0, "msgi", json!(rich::digest(hash, b"another", is_padded))));
            }
        }
        let long = rich::digest("sha384", BODY.as_bytes(), true);
        for msgi in [
            json!(null),
            json!(7),
            json!([digest]),
            json!(""),
            json!("sha256"),
            json!("sha256-"),
            json!("sha256-AA"),
            json!(digest.replace("sha256", "sha-256")),
            json!(digest.replace("sha256", "SHA256")),
            json!(digest.replace("sha256", "md5")),
            json!(digest.replace('-', "--")),
            json!(long.replace("sha384", "sha256")),
        ] {
            changes.push(claim(0, "msgi", msgi));
        }
        for ppt in ["", "shaken", "rcd", "foo", "div"] {
            changes.push(change(format!("as {ppt:?}"), move |draft| {
                draft.pieces[0].ppt = ppt.into();
                draft.pieces[0].claims["attest"] = json!("A");
                draft.pieces[0].claims["origid"] = json!(ORIGID);
                draft.pieces[0].claims["crn"] = json!("Delivery");
            }));
        }
        let other = self.number(B);
        changes.extend([
            change("a call", |draft| {
                draft.call.method = "INVITE";
                draft.call.body.clear();
            }),
            change("ppt only in the field", |draft| {
                draft.pieces[0].field_ppt = Some("msg".into());
                draft.pieces[0].ppt.clear();
            }),
            change("ppt only in the token", |draft| draft.pieces[0].field_ppt = Some(String::new())),
            change("compact", |draft| draft.pieces[0].form = Form::Compact),
            change("by the callee", move |draft| draft.pieces[0].signer = Rc::clone(&other)),
            change("to a group", |draft| draft.pieces[0].claims["dest"] = json!({"tn": [D, C, B]})),
        ]);
        self.vary("msgi", &draft, &changes, 30, rng);
    }
}
