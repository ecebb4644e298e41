//! The VESPER profile (draft-wendt-stir-vesper-07): `x5c`, the domain, the number, time and path.

use super::*;

/// Numbers of a VESPER leaf.
pub fn numbers() -> Vec<TnEntry> {
    vec![range("12015550100", 10)]
}

/// `x5u` and `info` alike.
fn url(url: &'static str) -> Change {
    change(format!("x5u {url}"), move |draft| draft.pieces[0].x5u = url.into())
}

fn caller(number: &'static str) -> Change {
    change(format!("from {number}"), move |draft| {
        draft.call.from = number.into();
        draft.pieces[0].claims["orig"] = json!({"tn": number});
    })
}

fn named(params: &mut CertificateParams, names: &[&str]) {
    let name = |name: &&str| rcgen::SanType::DnsName((*name).try_into().unwrap());
    params.subject_alt_names = names.iter().map(name).collect();
}

impl Corpus {
    pub fn vesper(&mut self, rng: &mut Rng) {
        let good = self.recorded(vesper_params(&numbers()));
        let draft = Draft::new(VESPER, vec![Piece::new(&good, "", plain(json!({})))]);
        let mut changes = common(self, 0);
        for text in [
            "https://exampleretail.example/other.pem",
            "https://exampleretail.example:8443/sti/leaf.pem",
            "https://exampleretail.example:444/sti/leaf.pem",
            "https://exampleretail.example:0/sti/leaf.pem",
            "https://EXAMPLERETAIL.example/sti/leaf.pem",
            "HTTPS://exampleretail.example/sti/leaf.pem",
            "https://exampleretail.example./sti/leaf.pem",
            "https://exampleretail.example",
            "https://exampleretail.example?leaf",
            "https://sti.exampleretail.example/sti/leaf.pem",
            "https://example/sti/leaf.pem",
            "https://exampleretail.example.org/sti/leaf.pem",
            "https://xexampleretail.example/sti/leaf.pem",
            "https://exampleretai1.example/sti/leaf.pem",
            "https://xn--exampleretil-m8a.example/sti/leaf.pem",
            "https://other.example/exampleretail.example",
            "https://exampleretail.example@other.example/leaf.pem",
            "https://other.example@exampleretail.example/leaf.pem",
            "https://192.0.2.1/sti/leaf.pem",
            "http://exampleretail.example/sti/leaf.pem",
            "ftp://exampleretail.example/sti/leaf.pem",
        ] {
            changes.push(url(text));
        }
        changes.extend(["12015550109", "12015550099", "12015550110", "2015550100", "112015550100"].map(caller));
        changes.push(change("without x5c", |draft: &mut Draft| draft.pieces[0].form = Form::Linked));
        changes.push(change("under SHAKEN", |draft| draft.demands.profile = Profile::Shaken));
        for (name, party) in self.vesper_leaves() {
            changes.push(change(name, move |draft| draft.pieces[0].signer = Rc::clone(&party)));
        }
        self.vary("vesper", &draft, &changes, 90, rng);

        // Every token of a chain is held to the profile (section 10).
        let mut chain = draft.clone();
        let diverting = self.recorded(vesper_params(&[one(B)]));
        let div = json!({"dest": {"tn": [C]}, "div": {"tn": B}, "iat": NOW, "orig": {"tn": A}});
        chain.pieces.push(Piece::new(&diverting, "div", div));
        chain.demands.strict_retarget = true;
        chain.call.target = C.into();
        let mut changes: Vec<Change> = (0..2).flat_map(|at| common(self, at)).collect();
        for (name, party) in self.vesper_leaves() {
            let other = Rc::clone(&party);
            changes.push(change(name, move |draft| draft.pieces[0].signer = Rc::clone(&party)));
            changes.push(change(format!("diverted by {name}"), move |draft| {
                draft.pieces[1].signer = Rc::clone(&other);
            }));
        }
        changes.push(change("diverted by a number unrecorded", {
            let party = self.party(vesper_params(&[one(B)]));
            move |draft| draft.pieces[1].signer = Rc::clone(&party)
        }));
        self.vary("vesper div", &chain, &changes, 10, rng);
    }

    /// Leaves that differ from a good one in one thing, all but one recorded by a log.
    fn vesper_leaves(&self) -> Vec<(&'static str, Rc<Party>)> {
        let edited = |edit: &dyn Fn(&mut CertificateParams)| {
            let mut params = vesper_params(&numbers());
            edit(&mut params);
            self.recorded(params)
        };
        let lists = |entries: &[TnEntry]| self.recorded(vesper_params(entries));
        let lasting = |seconds: i64| edited(&|params| set_validity(params, NOW - HOUR, NOW - HOUR + seconds));
        let stranger = Hierarchy::new();
        let foreign = stranger.intermediate.issue_logged(
            vesper_params(&numbers()),
            &[&self.logs.usable],
            milliseconds(NOW - HOUR),
            0,
        );
        let mut unnumbered = leaf_params();
        named(&mut unnumbered, &["exampleretail.example"]);
        let direct = {
            let logs = [&self.logs.usable];
            let leaf = self.hierarchy.root.issue_logged(vesper_params(&numbers()), &logs, milliseconds(NOW - HOUR), 0);
            Rc::new(Party { chain: vec![leaf.der], key: leaf.key })
        };
        vec![
            ("a provider", lists(&[spc("709J")])),
            ("a provider with the number", lists(&[spc("709J"), one(A)])),
            ("a provider with another number", lists(&[spc("709J"), one(OTHER)])),
            ("the number alone", lists(&[one(A)])),
            ("another number", lists(&[one(OTHER)])),
            ("a range from the number on", lists(&[range(A, 2)])),
            ("a range up to before the number", lists(&[range("12015550098", 2)])),
            ("a range up to the number", lists(&[range("12015550098", 3)])),
            ("no list", self.recorded(unnumbered)),
            ("no name", edited(&|params| params.subject_alt_names.clear())),
            ("another name", edited(&|params| named(params, &["other.example"]))),
            ("several names", edited(&|params| named(params, &["other.example", "exampleretail.example"]))),
            ("a name in capitals", edited(&|params| named(params, &["ExampleRetail.EXAMPLE"]))),
            ("a name above", edited(&|params| named(params, &["example"]))),
            ("a wildcard", edited(&|params| named(params, &["*.example"]))),
            ("90 days", lasting(90 * DAY)),
            ("longer than 90 days", lasting(90 * DAY + 1)),
            ("expired", edited(&|params| set_validity(params, NOW - 3 * DAY, NOW - DAY))),
            ("not yet valid", edited(&|params| set_validity(params, NOW + DAY, NOW + 2 * DAY))),
            ("no key identifier", edited(&|params| params.use_authority_key_identifier_extension = false)),
            ("another root", Rc::new(Party { chain: stranger.chain(&foreign), key: foreign.key })),
            ("by the root", direct),
        ]
    }

    /// A leaf with an SCT of the trusted log.
    pub fn recorded(&self, params: CertificateParams) -> Rc<Party> {
        let (logs, then) = ([&self.logs.usable], milliseconds(NOW - HOUR));
        let leaf = self.hierarchy.intermediate.issue_logged(params, &logs, then, 0);
        Rc::new(Party { chain: self.hierarchy.chain(&leaf), key: leaf.key })
    }
}
