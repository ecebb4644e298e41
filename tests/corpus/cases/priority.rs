//! Resource-Priority (RFC 8443, RFC 9027): what is signed, who may sign it, and the request.

use super::*;

fn rph(auth: Value) -> Value {
    plain(json!({"rph": {"auth": auth}}))
}

impl Corpus {
    pub fn priorities(&mut self, rng: &mut Rng) {
        let mut draft = Draft::new(SHAKEN, vec![Piece::new(&self.provider(), "rph", rph(json!(["ets.0", "wps.1"])))]);
        draft.call.priorities = vec!["ets.0".into()];
        let mut changes = common(self, 0);
        for rph in [
            Value::Null,
            json!([]),
            json!("ets.0"),
            json!({}),
            json!({"auth": "ets.0"}),
            json!({"auth": []}),
            json!({"auth": [1]}),
            json!({"auth": ["ets.0", 1]}),
            json!({"auth": ["ets.1"]}),
            json!({"auth": ["ETS.0"]}),
            json!({"auth": ["ets.0"], "other": ["ets.0"]}),
            json!({"auth": ["ets"]}),
            json!({"auth": ["ets."]}),
            json!({"auth": ["ets.0.1"]}),
            json!({"auth": ["ets 0.1"]}),
            json!({"auth": ["ets.0", "esnet.4"]}),
            json!({"auth": ["ets.0", "esnet.5"]}),
        ] {
            changes.push(claim(0, "rph", rph));
        }
        for values in [&[][..], &["ets.1"], &["wps.1"], &["wps.1", "ets.0"], &["drsn.0", "ets.0"], &["Ets.0"]] {
            changes.push(change(format!("Resource-Priority {values:?}"), move |draft| {
                draft.call.priorities = values.iter().map(|value| (*value).to_owned()).collect();
            }));
        }
        for (name, party) in self.authorities() {
            changes.push(change(format!("by {name}"), move |draft| draft.pieces[0].signer = Rc::clone(&party)));
        }
        changes.extend([
            change("providers have no say", |draft| draft.demands.providers_prioritize = false),
            change("strict", |draft| draft.demands.strict_retarget = true),
            change("sent on", |draft| draft.call.target = C.into()),
            change("compact", |draft| draft.pieces[0].form = Form::Compact),
            claim(0, "sph", json!("psap-callback")),
            claim(0, "rcd", json!({"nam": 7})),
        ]);
        self.vary("rph", &draft, &changes, 40, rng);
        self.callbacks(&draft, rng);

        // Beside the token for the number: each by itself.
        let mut beside = draft.clone();
        beside.pieces.push(Piece::new(&self.provider(), "shaken", claims()));
        let changes: Vec<Change> = (0..2).flat_map(|at| common(self, at)).collect();
        self.vary("rph beside shaken", &beside, &changes, 4, rng);
    }

    /// Emergency calls and call backs (R-6 to R-8).
    fn callbacks(&mut self, draft: &Draft, rng: &mut Rng) {
        let mut callback = draft.clone();
        callback.pieces[0].claims = plain(json!({"rph": {"auth": ["esnet.0"]}, "sph": "psap-callback"}));
        callback.call.priorities = vec!["esnet.0".into()];
        callback.call.priority = Some("psap-callback".into());
        let mut changes = vec![
            change("no Priority", |draft: &mut Draft| draft.call.priority = None),
            change("Priority emergency", |draft| draft.call.priority = Some("emergency".into())),
            claim(0, "dest", json!({"uri": ["sip:a@b.example"]})),
            claim(0, "orig", json!({"uri": "sip:a@b.example"})),
        ];
        for sph in [json!(null), json!("psap-call"), json!(1), json!("PSAP-callback")] {
            changes.push(claim(0, "sph", sph));
        }
        for (own, theirs) in
            [("esnet.4", "esnet.4"), ("esnet.5", "esnet.5"), ("ets.0", "ets.0"), ("esnet.1", "esnet.0")]
        {
            changes.push(change(format!("{own} for {theirs}"), move |draft| {
                draft.pieces[0].claims["rph"] = json!({"auth": [own]});
                draft.call.priorities = vec![theirs.into()];
            }));
        }
        self.vary("rph call back", &callback, &changes, 10, rng);
    }

    /// Certificates with and without a say about namespaces (R-2).
    fn authorities(&self) -> Vec<(&'static str, Rc<Party>)> {
        let constrained = |entries: &[TnEntry], include: &[&str], permitted: &[(&str, &[&str])]| {
            let mut params = leaf_params();
            params.custom_extensions.push(tn_extension(entries));
            params.custom_extensions.push(constraints::extension_of(false, include, permitted, &[]));
            self.party(params)
        };
        let number = [one(A)];
        vec![
            ("the caller", self.number(A)),
            ("one whose constraints ask for it", constrained(&number, &["rph"], &[])),
            ("one who is permitted it", constrained(&number, &[], &[("rph", &[r#"{"auth":["ets.0","wps.1"]}"#])])),
            ("one who is permitted less", constrained(&number, &[], &[("rph", &[r#"{"auth":["ets.0"]}"#])])),
            ("one who is permitted something else", constrained(&number, &[], &[("attest", &["A"])])),
            ("a provider who is permitted less", constrained(&[spc("709J")], &[], &[("rph", &["{}"])])),
        ]
    }
}
