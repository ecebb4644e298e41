//! Diversions (RFC 8946): chains over several fields and inside one, and what breaks them.

use super::*;

const STRICT: Demands = Demands { strict_retarget: true, ..SHAKEN };

fn div(from: &str, to: &str) -> Value {
    json!({"dest": {"tn": [to]}, "div": {"tn": from}, "iat": NOW, "orig": {"tn": A}})
}

fn target(number: &'static str) -> Change {
    change(format!("to {number}"), move |draft| draft.call.target = number.into())
}

/// Another caller is asserted, and these tokens are about that one: each is true of the call, not all of one (4.2 step 3).
fn callers(name: &str, tokens: &'static [usize]) -> Change {
    change(format!("an asserted caller in {name}"), move |draft| {
        draft.call.asserted = Some(OTHER.into());
        tokens.iter().for_each(|at| draft.pieces[*at].claims["orig"] = json!({"tn": OTHER}));
    })
}

fn without(at: usize) -> Change {
    change(format!("without {at}"), move |draft| draft.pieces[at].is_absent = true)
}

impl Corpus {
    pub fn diversions(&mut self, rng: &mut Rng) {
        let (provider, [b, c, d]) = (self.provider(), [B, C, D].map(|number| self.number(number)));
        let first = Piece::new(&provider, "shaken", claims());
        let mut chain = Draft::new(STRICT, vec![first.clone(), Piece::new(&b, "div", div(B, C))]);
        chain.call.target = C.into();
        let changes = self.breaks(&[&b, &c, &provider]);
        self.vary("div", &chain, &changes, 40, rng);

        let mut longer = chain.clone();
        longer.pieces.insert(0, Piece::new(&c, "div", div(C, D)));
        longer.call.target = D.into();
        let mut changes: Vec<Change> = (0..3).flat_map(|at| common(self, at)).collect();
        changes.extend((0..3).map(without));
        changes.extend([target(B), target(C), target("12155551299")]);
        let limit =
            |most| change(format!("at most {most}"), move |draft: &mut Draft| draft.demands.max_diversions = most);
        changes.extend([limit(0), limit(1), limit(2)]);
        self.vary("div twice", &longer, &changes, 20, rng);

        self.long_chains(&first);
        self.odd_chains(&first, &[&b, &c, &d]);
        self.inside(&chain, &[&b, &c], rng);
    }

    /// What can be done to a chain of a token and a diversion.
    fn breaks(&self, [b, c, provider]: &[&Rc<Party>; 3]) -> Vec<Change> {
        let mut changes: Vec<Change> = (0..2).flat_map(|at| common(self, at)).collect();
        changes.extend((0..2).map(without));
        changes.extend([target(B), target(D)]);
        let by = |name: &str, party: &Rc<Party>| {
            let party = Rc::clone(party);
            change(format!("by {name}"), move |draft| draft.pieces[1].signer = Rc::clone(&party))
        };
        let caller = self.number(A);
        changes.extend([by("the caller", &caller), by("the new callee", c), by("a provider", provider)]);
        let mut expired = leaf_params();
        expired.custom_extensions.push(tn_extension(&[one(B)]));
        set_validity(&mut expired, NOW - 3 * DAY, NOW - DAY);
        changes.push(by("an expired certificate", &self.party(expired)));
        for div in [
            Value::Null,
            json!({"tn": C}),
            json!({"tn": [B]}),
            json!({"tn": B, "uri": "sip:a@b.example"}),
            json!({"tn": B, "hi": "1.2.1"}),
            json!({"hi": "1.2.1"}),
            json!({"uri": "sip:a@b.example"}),
            json!([B]),
            json!(B),
        ] {
            changes.push(claim(1, "div", div));
        }
        changes.extend([
            claim(1, "opt", json!("a.b.c")),
            claim(1, "attest", json!("A")),
            claim(1, "dest", json!({"tn": [D, C]})),
            claim(0, "dest", json!({"tn": [C, B]})),
            claim(0, "dest", json!({"tn": [C]})),
            claim(0, "attest", json!("D")),
            change("another To", |draft| draft.call.to = D.into()),
            change("the other way round", |draft| draft.pieces.reverse()),
            change("not strict", |draft| draft.demands.strict_retarget = false),
            change("compact", |draft| draft.pieces[1].form = Form::Compact),
            change("without ppt", |draft| draft.pieces[1].field_ppt = Some(String::new())),
            change("of an unknown kind", |draft| draft.pieces[0].ppt = "foo".into()),
            change("both of another caller", |draft| {
                draft.pieces.iter_mut().for_each(|piece| piece.claims["orig"] = json!({"tn": OTHER}));
            }),
            callers("first", &[0]),
            callers("diversion", &[1]),
            callers("both", &[0, 1]),
            callers("neither", &[]),
            change("a longer window", |draft| {
                draft.demands.diverted_window = 3600;
                draft.pieces[0].claims["iat"] = json!(NOW - 3000);
            }),
            change("beyond the longer window", |draft| {
                draft.demands.diverted_window = 3600;
                draft.pieces[0].claims["iat"] = json!(NOW - 3601);
            }),
            change("a stale diversion in the longer window", |draft| {
                draft.demands.diverted_window = 3600;
                draft.pieces[1].claims["iat"] = json!(NOW - 3000);
            }),
        ]);
        let again = Piece::new(b, "div", div(B, D));
        changes.push(change("beside a diversion elsewhere", move |draft| draft.pieces.push(again.clone())));
        changes
    }

    /// Up to the limit, and beyond.
    fn long_chains(&mut self, first: &Piece) {
        let numbers: Vec<String> = (0..8).map(|at| format!("1215555{at:04}")).collect();
        let parties: Vec<Rc<Party>> = numbers.iter().map(|number| self.number(number)).collect();
        for count in 1..=7 {
            let mut draft = Draft::new(STRICT, vec![first.clone()]);
            draft.pieces[0].claims["dest"] = json!({"tn": [numbers[0]]});
            for at in 0..count {
                draft.pieces.push(Piece::new(&parties[at], "div", div(&numbers[at], &numbers[at + 1])));
            }
            draft.call.to = numbers[0].clone();
            draft.call.target = numbers[count].clone();
            self.add_draft("div chain", format!("{count} diversions"), &draft);
            for missing in 0..=count {
                let mut draft = draft.clone();
                draft.pieces.remove(missing);
                self.add_draft("div chain", format!("{count} diversions without {missing}"), &draft);
            }
        }
    }

    /// Forks and circles.
    fn odd_chains(&mut self, first: &Piece, [b, c, d]: &[&Rc<Party>; 3]) {
        let caller = self.number(A);
        let step = |party: &Rc<Party>, from: &str, to: &str| Piece::new(party, "div", div(from, to));
        let named = Piece::new(&caller, "rcd", plain(json!({"rcd": {"nam": "Caller"}})));
        let unknown = |dest: &str| {
            let mut piece = Piece::new(&caller, "foo", plain(json!({})));
            piece.claims["dest"] = json!({"tn": [dest]});
            piece
        };
        let mut broken = first.clone();
        broken.is_flipped = true;
        let mut to_both = first.clone();
        to_both.claims["dest"] = json!({"tn": [B, C]});
        let other_holder = self.number(B);
        let all: [(&str, &str, Vec<Piece>); 14] = [
            ("one diversion, two tokens", C, vec![first.clone(), named.clone(), step(b, B, C)]),
            ("two tokens, one broken", C, vec![broken.clone(), named.clone(), step(b, B, C)]),
            ("two diversions alike", C, vec![first.clone(), step(b, B, C), step(&other_holder, B, C)]),
            ("a branch to another", C, vec![first.clone(), step(b, B, C), step(b, B, D)]),
            ("two ways", D, vec![to_both.clone(), step(b, B, D), step(c, C, D)]),
            ("two ways, one longer", D, vec![first.clone(), step(b, B, D), step(b, B, C), step(c, C, D)]),
            ("a circle", C, vec![first.clone(), step(b, B, C), step(c, C, B), step(b, B, C)]),
            ("a circle without beginning", C, vec![step(b, B, C), step(c, C, B)]),
            ("back to the first", B, vec![first.clone(), step(b, B, C), step(c, C, B)]),
            ("to itself", C, vec![first.clone(), step(b, B, C), step(c, C, C)]),
            ("two diversions without a token", D, vec![step(b, B, C), step(c, C, D)]),
            ("of an unknown kind", C, vec![unknown(B), step(b, B, C)]),
            ("twice, of an unknown kind", D, vec![unknown(B), step(b, B, C), step(c, C, D)]),
            ("past the end", D, vec![first.clone(), step(b, B, C), step(c, C, D), step(d, D, B)]),
        ];
        for (name, target, pieces) in all {
            for strict_retarget in [true, false] {
                let mut draft = Draft::new(Demands { strict_retarget, ..SHAKEN }, pieces.clone());
                draft.call.target = target.into();
                self.add_draft("div graph", format!("{name}, strict {strict_retarget}"), &draft);
            }
        }
    }

    /// `div-o`: the chain inside one token.
    fn inside(&mut self, chain: &Draft, [b, c]: &[&Rc<Party>; 2], rng: &mut Rng) {
        let mut once = chain.clone();
        let inner = once.pieces.remove(0);
        once.pieces[0] = Piece { inner: Some(Box::new(inner)), ..Piece::new(b, "div-o", div(B, C)) };
        let within = |name: &str, make: fn(&mut Piece)| {
            change(format!("inside: {name}"), move |draft| {
                draft.pieces[0].inner.as_deref_mut().into_iter().for_each(make);
            })
        };
        let mut changes = common(self, 0);
        changes.extend([
            claim(0, "div", Value::Null),
            claim(0, "div", json!({"tn": C})),
            change("without opt", |draft| draft.pieces[0].inner = None),
            change("opt a list", |draft| {
                draft.pieces[0].inner = None;
                draft.pieces[0].claims["opt"] = json!(["a.b.c"]);
            }),
            change("opt of letters", |draft| {
                draft.pieces[0].inner = None;
                draft.pieces[0].claims["opt"] = json!("a.b.c");
            }),
            target(B),
            target(D),
            change("not strict", |draft| draft.demands.strict_retarget = false),
            change("none allowed", |draft| draft.demands.max_diversions = 0),
            within("flipped", |inner| inner.is_flipped = true),
            within("compact", |inner| inner.form = Form::Compact),
            within("stale", |inner| inner.claims["iat"] = json!(NOW - 61)),
            within("another caller", |inner| inner.claims["orig"] = json!({"tn": OTHER})),
            within("another callee", |inner| inner.claims["dest"] = json!({"tn": [C]})),
            change("inside: another caller, who is asserted", |draft| {
                draft.call.asserted = Some(OTHER.into());
                let inner = draft.pieces[0].inner.as_deref_mut();
                inner.into_iter().for_each(|inner| inner.claims["orig"] = json!({"tn": OTHER}));
            }),
            within("several callees", |inner| inner.claims["dest"] = json!({"tn": [C, B]})),
            within("no origid", |inner| put(&mut inner.claims, "origid", Value::Null)),
            within("baseline", |inner| inner.ppt.clear()),
            within("of an unknown kind", |inner| inner.ppt = "foo".into()),
            change("inside: stale, in the longer window", |draft| {
                draft.demands.diverted_window = 3600;
                let inner = draft.pieces[0].inner.as_deref_mut();
                inner.into_iter().for_each(|inner| inner.claims["iat"] = json!(NOW - 3000));
            }),
            change("inside: a diversion", |draft| {
                let inner = Piece::new(&draft.pieces[0].signer, "div", div(B, B));
                draft.pieces[0].inner = Some(Box::new(inner));
            }),
        ]);
        self.vary("div-o", &once, &changes, 25, rng);

        let mut twice = once.clone();
        let inner = once.pieces.remove(0);
        twice.pieces[0] = Piece { inner: Some(Box::new(inner)), ..Piece::new(c, "div-o", div(C, D)) };
        twice.call.target = D.into();
        let innermost = |name: &str, make: fn(&mut Piece)| {
            change(format!("innermost: {name}"), move |draft| {
                let inner = draft.pieces[0].inner.as_deref_mut();
                inner.and_then(|inner| inner.inner.as_deref_mut()).into_iter().for_each(make);
            })
        };
        let mut changes = common(self, 0);
        changes.extend([
            change("one allowed", |draft| draft.demands.max_diversions = 1),
            change("two allowed", |draft| draft.demands.max_diversions = 2),
            within("flipped", |inner| inner.is_flipped = true),
            within("another div", |inner| inner.claims["div"] = json!({"tn": C})),
            within("another caller", |inner| inner.claims["orig"] = json!({"tn": OTHER})),
            within("nothing inside", |inner| inner.inner = None),
            innermost("flipped", |inner| inner.is_flipped = true),
            innermost("stale", |inner| inner.claims["iat"] = json!(NOW - 61)),
            innermost("another callee", |inner| inner.claims["dest"] = json!({"tn": [C]})),
            innermost("of an unknown kind", |inner| inner.ppt = "foo".into()),
        ]);
        self.vary("div-o twice", &twice, &changes, 10, rng);

        // Both ways in one call.
        let mut mixed = twice.clone();
        let inner = *mixed.pieces.remove(0).inner.unwrap();
        mixed.pieces = vec![Piece::new(c, "div", div(C, D)), inner];
        let changes: Vec<Change> = (0..2).flat_map(|at| common(self, at)).chain((0..2).map(without)).collect();
        self.vary("div and div-o", &mixed, &changes, 8, rng);
    }
}
