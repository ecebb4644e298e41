//! Tokens under the SHAKEN profile: good ones, ones with an octet changed anywhere, hand-mutated ones, and good ones under odd certificates.

use super::*;

impl Corpus {
    /// Good ones, in many shapes.
    pub fn good(&mut self, rng: &mut Rng) {
        for place in 0..60 {
            let ppt = rng.chance(600).then_some("shaken");
            let mut payload = claims();
            payload["attest"] = ["A", "B", "C"][rng.below(3) as usize].into();
            payload["iat"] = (NOW - rng.below(110) as i64 + 55).into();
            if ppt.is_none() && rng.chance(500) {
                payload = json!({"dest": payload["dest"], "iat": payload["iat"], "orig": payload["orig"]});
            }
            if rng.chance(300) {
                payload["dest"]["tn"] = json!(["12125550000", CALLEE, "911"]);
            }
            if rng.chance(300) {
                payload["dest"]["uri"] = json!(["sip:a@b.example"]);
            }
            if rng.chance(300) {
                payload["unknown"] = json!([{"a": [1, 2.5, null]}, "\u{e9}\"\\"]);
            }
            let (head, mut text) = (header(&self.chain(), ppt).to_string(), payload.to_string());
            if rng.chance(300) {
                text = serde_json::to_string_pretty(&payload).unwrap();
            }
            let signed = value(&sign(&self.leaf.key, &head, &text), ppt);
            self.add("shape", format!("good {place}"), signed);
        }
    }

    /// Another character anywhere in the token.
    pub fn changed(&mut self, rng: &mut Rng) {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let good = self.shaken(&header(&self.chain(), Some("shaken")), &claims());
        let token_end = good.find(';').unwrap();
        let dots: Vec<usize> = good[..token_end].match_indices('.').map(|(at, _)| at).collect();
        // The certificates are most of a token: the parts get equal shares.
        let plain = header(&[], Some("shaken")).to_string().len();
        let parts = [(0, plain), (0, dots[0]), (dots[0] + 1, dots[1]), (dots[1] + 1, token_end)];
        for place in 0..160 {
            let (start, end) = parts[place % parts.len()];
            let at = start + rng.below((end - start) as u64) as usize;
            let mut octets = good.clone().into_bytes();
            octets[at] = ALPHABET[rng.below(64) as usize];
            self.add("changed", format!("character {at}"), String::from_utf8(octets).unwrap());
        }
        // JSON changed and signed anew: what is wrong is only what the text says.
        let (head, payload) = (header(&self.chain(), Some("shaken")).to_string(), claims().to_string());
        for place in 0..60 {
            let mut octets = payload.clone().into_bytes();
            let at = rng.below(octets.len() as u64) as usize;
            octets[at] = b" !\"#,:[]{}019AaZz~"[rng.below(18) as usize];
            let text = String::from_utf8(octets).unwrap();
            self.add(
                "resigned",
                format!("payload {place}: {text}"),
                value(&sign(&self.leaf.key, &head, &text), Some("shaken")),
            );
        }
    }

    /// By hand: the payload.
    pub fn payloads(&mut self) {
        let set = |path: &[&str], new: Value| {
            let mut changed = claims();
            let (last, parents) = path.split_last().unwrap();
            let mut at = &mut changed;
            for step in parents {
                at = &mut at[*step];
            }
            at[*last] = new;
            changed
        };
        let without = |name: &str| {
            let mut changed = claims();
            changed.as_object_mut().unwrap().remove(name);
            changed
        };
        let mut all: Vec<(String, Value)> = ["attest", "dest", "iat", "orig", "origid"]
            .iter()
            .flat_map(|name| {
                [
                    (format!("no {name}"), without(name)),
                    (format!("{name} null"), set(&[name], Value::Null)),
                    (format!("{name} 7"), set(&[name], json!(7))),
                    (format!("{name} list"), set(&[name], json!(["a"]))),
                    (format!("{name} object"), set(&[name], json!({}))),
                ]
            })
            .collect();
        for (name, path, new) in [
            ("attest", &["attest"][..], json!("a")),
            ("attest D", &["attest"], json!("D")),
            ("origid short", &["origid"], json!("123e4567-e89b-12d3-a456-42665544000")),
            ("origid dashes", &["origid"], json!("123e4567e89b-12d3-a456-4266-55440000")),
            ("iat text", &["iat"], json!(NOW.to_string())),
            ("iat fraction", &["iat"], json!(NOW as f64 + 0.5)),
            ("iat just fresh", &["iat"], json!(NOW - 60)),
            ("iat just stale", &["iat"], json!(NOW - 61)),
            ("iat just ahead", &["iat"], json!(NOW + 60)),
            ("iat too far ahead", &["iat"], json!(NOW + 61)),
            ("iat before the certificate", &["iat"], json!(NOW - 2 * HOUR)),
            ("iat negative", &["iat"], json!(-1)),
            ("iat beyond", &["iat"], json!(u64::MAX)),
            ("orig another", &["orig", "tn"], json!("12015550101")),
            ("orig with plus", &["orig", "tn"], json!(format!("+{CALLER}"))),
            ("orig empty", &["orig", "tn"], json!("")),
            ("orig list", &["orig", "tn"], json!([CALLER])),
            ("orig two", &["orig", "uri"], json!("sip:a@b.example")),
            ("orig more", &["orig", "hi"], json!("1")),
            ("dest another", &["dest", "tn"], json!(["12155551214"])),
            ("dest text", &["dest", "tn"], json!(CALLEE)),
            ("dest empty", &["dest", "tn"], json!([])),
            ("dest numbers", &["dest", "tn"], json!([12155551213u64])),
            ("dest with plus", &["dest", "tn"], json!([format!("+{CALLEE}")])),
            ("dest more", &["dest", "hi"], json!(["1"])),
            ("name not ASCII", &["\u{e9}"], json!(1)),
        ] {
            all.push((name.to_owned(), set(path, new)));
        }
        let head = header(&self.chain(), Some("shaken"));
        for (name, payload) in all {
            let signed = self.shaken(&head, &payload);
            self.add("payload", name, signed);
        }
        let good = claims().to_string();
        let twice = |member: &str| format!("{{{member},{}", &good[1..]);
        for (name, text) in [
            ("two iat", twice(&format!("\"iat\":{NOW}"))),
            ("two unknown", twice("\"x\":1,\"x\":1")),
            ("two in dest", good.replace("\"dest\":{", &format!("\"dest\":{{\"tn\":[\"{CALLEE}\"],"))),
            ("two nested", twice("\"x\":[{\"y\":1,\"y\":2}]")),
            ("two, one escaped", twice(&format!("\"i\\u0061t\":{NOW}"))),
            ("behind it more", format!("{good} {{}}")),
            ("cut", good[..good.len() - 1].to_owned()),
            ("comma", good.replace("}}", "},}")),
            ("white space", format!(" {}\n", good.replace(':', " : "))),
            ("escapes", good.replace(CALLER, "1201555010\\u0030")),
            ("no object", "[]".to_owned()),
            ("empty", String::new()),
            ("iat exponent", good.replace(&NOW.to_string(), "1767225600e0")),
            ("iat zero fraction", good.replace(&NOW.to_string(), "1767225600.0")),
            ("nothing but depth", "[".repeat(4000)),
            ("deep unknown", twice(&format!("\"x\":{}1{}", "[".repeat(10), "]".repeat(10)))),
            ("deeper unknown", twice(&format!("\"x\":{}1{}", "[".repeat(200), "]".repeat(200)))),
        ] {
            let signed = value(&sign(&self.leaf.key, &head.to_string(), &text), Some("shaken"));
            self.add("payload", name, signed);
        }
    }

    /// By hand: the protected header and the field.
    pub fn headers(&mut self) {
        let set = |name: &str, new: Value| {
            let mut changed = header(&self.hierarchy.chain(&self.leaf), Some("shaken"));
            changed[name] = new;
            changed
        };
        let without = |name: &str| {
            let mut changed = header(&self.hierarchy.chain(&self.leaf), Some("shaken"));
            changed.as_object_mut().unwrap().remove(name);
            changed
        };
        let mut all = Vec::new();
        for name in ["alg", "typ", "ppt", "x5u", "x5c"] {
            all.push((format!("no {name}"), without(name)));
            all.push((format!("{name} null"), set(name, Value::Null)));
            all.push((format!("{name} 7"), set(name, json!(7))));
            all.push((format!("{name} odd"), set(name, json!("odd"))));
        }
        for (name, new) in [
            ("alg", json!("none")),
            ("alg", json!("HS256")),
            ("alg", json!("es256")),
            ("typ", json!("Passport")),
            ("ppt", json!("div")),
            ("x5u", json!("https://other.example/c.pem")),
            ("crit", json!(["x"])),
            ("kid", json!("unknown members do not matter")),
            ("x5c", json!([])),
            ("x5c", json!(["AAAA"])),
            ("x5c", json!(["*"])),
        ] {
            all.push((format!("{name} = {new}"), set(name, new.clone())));
        }
        let signed: Vec<_> = all.into_iter().map(|(name, head)| (name, self.shaken(&head, &claims()))).collect();
        signed.into_iter().for_each(|(name, value)| self.add("header", name, value));
        let good = self.shaken(&header(&self.chain(), Some("shaken")), &claims());
        let token = good.split(';').next().unwrap().to_owned();
        let (body, signature) = token.rsplit_once('.').unwrap();
        let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let fields = [
            ("no info", format!("{token};ppt=\"shaken\"")),
            ("another info", good.replace(&format!("info=<{X5U}>"), "info=<https://other.example/c.pem>")),
            ("no ppt", good.replace(";ppt=\"shaken\"", "")),
            ("ppt without quotes", good.replace("\"shaken\"", "shaken")),
            ("ppt div", good.replace("\"shaken\"", "\"div\"")),
            ("ppt unknown", good.replace("\"shaken\"", "\"foo\"")),
            ("ppt in capitals", good.replace("\"shaken\"", "\"SHAKEN\"")),
            ("alg RS256", good.replace("alg=ES256", "alg=RS256")),
            ("no alg", good.replace(";alg=ES256", "")),
            ("two segments", good.replace(&format!(".{signature}"), "")),
            ("four segments", good.replacen(';', ".AAAA;", 1)),
            ("no signature", good.replace(signature, "")),
            ("signature short", good.replace(signature, &URL_SAFE_NO_PAD.encode(&raw[..63]))),
            ("signature long", good.replace(signature, &URL_SAFE_NO_PAD.encode([&raw[..], &[0]].concat()))),
            ("signature zero", good.replace(signature, &URL_SAFE_NO_PAD.encode([0; 64]))),
            ("signature swapped", good.replace(signature, &URL_SAFE_NO_PAD.encode([&raw[32..], &raw[..32]].concat()))),
            ("signature of another", good.replace(signature, self.signature_of_another(body).as_str())),
        ];
        fields.into_iter().for_each(|(name, value)| self.add("field", name, value));
    }

    fn signature_of_another(&self, input: &str) -> String {
        URL_SAFE_NO_PAD.encode(es256(&p256(), input.as_bytes()))
    }

    /// Good tokens under odd certificates.
    pub fn certificates(&mut self) {
        let mut expired = shaken_params();
        set_validity(&mut expired, NOW - 3 * DAY, NOW - DAY);
        let mut early = shaken_params();
        set_validity(&mut early, NOW + DAY, NOW + 2 * DAY);
        let numbers = |entries: &[vesperd::cert::TnEntry]| {
            let mut params = leaf_params();
            params.custom_extensions.push(tn_extension(entries));
            params
        };
        let leaves: [(&str, CertificateParams); 9] = [
            ("expired", expired),
            ("not yet valid", early),
            ("no TNAuthList", leaf_params()),
            ("the number", numbers(&[one(CALLER)])),
            ("another number", numbers(&[one("12015550101")])),
            ("a range", numbers(&[range("12015550095", 10)])),
            ("a range below", numbers(&[range("12015550090", 10)])),
            ("a range and a number", numbers(&[range("12015550200", 10), one(CALLER)])),
            ("numbers and a code", numbers(&[one("12015550101"), spc("709J")])),
        ];
        for (name, params) in leaves {
            let leaf = self.hierarchy.intermediate.issue(params);
            let chain = self.hierarchy.chain(&leaf);
            self.under(name, &chain, &leaf.key);
        }
        let stranger = Hierarchy::new();
        let foreign = stranger.intermediate.issue(shaken_params());
        self.under("another root", &stranger.chain(&foreign), &foreign.key);
        let (leaf, key) = (self.leaf.der.clone(), KeyPair::from_der_of(&self.leaf.key));
        self.under("without the intermediate", std::slice::from_ref(&leaf), &key);
        self.under("a foreign intermediate", &[leaf.clone(), stranger.intermediate.der.clone()], &key);
        self.under(
            "both intermediates",
            &[leaf.clone(), stranger.intermediate.der.clone(), self.hierarchy.intermediate.der.clone()],
            &key,
        );
        self.under(
            "with the root",
            &[leaf.clone(), self.hierarchy.intermediate.der.clone(), self.hierarchy.root.der.clone()],
            &key,
        );
        self.under("another key", &self.chain(), &p256());
        let below = self.leaf.issue(shaken_params());
        self.under("under a leaf", &[below.der.clone(), leaf, self.hierarchy.intermediate.der.clone()], &below.key);
        let direct = self.hierarchy.root.issue(shaken_params());
        self.under("by the root itself", std::slice::from_ref(&direct.der), &direct.key);
        let mut old = ca_params("Old CA");
        set_validity(&mut old, NOW - 10 * DAY, NOW - DAY);
        let old = self.hierarchy.root.issue(old);
        let leaf = old.issue(shaken_params());
        self.under("under an expired authority", &[leaf.der.clone(), old.der.clone()], &leaf.key);
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let leaf = self.hierarchy.intermediate.issue_with(shaken_params(), p384);
        self.under("a key of P-384", &self.hierarchy.chain(&leaf), &p256());
    }

    fn under(&mut self, name: &str, chain: &[Vec<u8>], key: &KeyPair) {
        for ppt in [None, Some("shaken")] {
            let payload = if ppt.is_some() {
                claims()
            } else {
                json!({"dest": {"tn": [CALLEE]}, "iat": NOW, "orig": {"tn": CALLER}})
            };
            let signed = value(&sign(key, &header(chain, ppt).to_string(), &payload.to_string()), ppt);
            self.add("certificate", format!("{name} {}", ppt.unwrap_or("base")), signed);
        }
    }
}

trait Copied {
    fn from_der_of(key: &Self) -> Self;
}

impl Copied for KeyPair {
    fn from_der_of(key: &Self) -> Self {
        KeyPair::try_from(key.serialize_der()).unwrap()
    }
}
