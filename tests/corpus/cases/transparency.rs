//! Embedded SCTs: lists made by hand, each with one thing that is another.

use vesperd::cert::oid;
use vesperd::cert::sct::{Entry, Sct};

use super::vesper::numbers;
use super::*;

/// Makes a list for a precertificate.
type Make<'a> = &'a dyn Fn(&Entry) -> Vec<u8>;

/// A list in the extension's two wrappings.
fn list(scts: &[Vec<u8>]) -> Vec<u8> {
    let vector = |octets: &[u8]| [&(octets.len() as u16).to_be_bytes()[..], octets].concat();
    let entries: Vec<u8> = scts.iter().flat_map(|sct| vector(sct)).collect();
    tlv(0x04, &vector(&entries))
}

impl Corpus {
    pub fn transparency(&mut self) {
        let cases = self.lists();
        let unlisted = [
            ("none", self.party(vesper_params(&numbers()))),
            ("in the middle", {
                let (logs, then) = ([&self.logs.usable], milliseconds(NOW - HOUR));
                let leaf = self.hierarchy.intermediate.issue_logged(vesper_params(&numbers()), &logs, then, 1);
                Rc::new(Party { chain: self.hierarchy.chain(&leaf), key: leaf.key })
            }),
            ("a precertificate", {
                let mut params = vesper_params(&numbers());
                params.custom_extensions.push(critical(extension(&oid::PRECERTIFICATE_POISON, vec![5, 0])));
                self.party(params)
            }),
            ("the list of another", {
                let donor = self.recorded(vesper_params(&[one("1")]));
                let fields = tbs_fields(&donor.chain[0]);
                let extensions = elements(contents(contents(fields.last().unwrap())));
                let id = tlv(0x06, oid::SCT_LIST.der);
                let own = extensions.iter().find(|extension| contents(extension).starts_with(&id)).unwrap();
                let value = contents(&contents(own)[id.len()..]).to_vec();
                let mut params = vesper_params(&numbers());
                params.custom_extensions.push(extension(&oid::SCT_LIST, value));
                self.party(params)
            }),
        ];
        for (name, party) in cases.into_iter().chain(unlisted) {
            let mut draft = Draft::new(VESPER, vec![Piece::new(&party, "", plain(json!({})))]);
            self.add_draft("sct", name, &draft);
            draft.pieces[0].is_flipped = true;
            self.add_draft("sct", format!("{name}, flipped"), &draft);
            // R24 is not for plain STIR.
            draft.pieces[0].is_flipped = false;
            draft.demands.profile = Profile::Shaken;
            self.add_draft("sct", format!("{name}, under SHAKEN"), &draft);
        }
    }

    fn lists(&self) -> Vec<(&'static str, Rc<Party>)> {
        let logs = &self.logs;
        let then = milliseconds(NOW - HOUR);
        let made = |make: Make<'_>| self.listed(&[make]);
        let by = |log: &TestLog, at: u64| made(&|entry| list(&[octets(&log.sign(entry, at, &[]))]));
        let edited = |edit: &dyn Fn(&mut Sct)| {
            made(&|entry| {
                let mut sct = logs.usable.sign(entry, then, &[]);
                edit(&mut sct);
                list(&[octets(&sct)])
            })
        };
        let both = |first: &TestLog, second: &TestLog| {
            made(&|entry| list(&[octets(&first.sign(entry, then, &[])), octets(&second.sign(entry, then, &[]))]))
        };
        let good = |entry: &Entry| octets(&logs.usable.sign(entry, then, &[]));
        let wrapped = |edit: &dyn Fn(Vec<u8>) -> Vec<u8>| made(&|entry| edit(list(&[good(entry)])));
        let single = |edit: &dyn Fn(&mut Vec<u8>)| {
            made(&|entry| {
                let mut sct = good(entry);
                edit(&mut sct);
                list(&[sct])
            })
        };
        let plain = |entry: &Entry| list(&[good(entry)]);
        vec![
            ("good", made(&plain)),
            ("twice", self.listed(&[&plain, &plain])),
            ("two logs", both(&logs.usable, &logs.second)),
            ("an unknown log too", both(&logs.unknown, &logs.second)),
            ("a rejected log too", both(&logs.rejected, &logs.second)),
            ("an unknown log", by(&logs.unknown, then)),
            ("a rejected log", by(&logs.rejected, then)),
            ("an unknown and a rejected log", both(&logs.unknown, &logs.rejected)),
            ("before the log retired", by(&logs.retired, then - 1)),
            ("when the log retired", by(&logs.retired, then)),
            ("after the log retired", by(&logs.retired, then + 1)),
            ("now", by(&logs.usable, milliseconds(NOW))),
            ("60 s ahead", by(&logs.usable, milliseconds(NOW + 60))),
            ("61 s ahead", by(&logs.usable, milliseconds(NOW + 61))),
            ("long ago", by(&logs.usable, milliseconds(NOW - 400 * DAY))),
            (
                "with extensions",
                made(&|entry| list(&[octets(&logs.usable.sign(entry, then, &[0, 0, 5, 0, 0, 0, 0, 1]))])),
            ),
            ("other extensions", edited(&|sct| sct.extensions = vec![0])),
            ("another time", edited(&|sct| sct.timestamp -= 1)),
            ("another log id", edited(&|sct| sct.log_id[0] ^= 1)),
            ("the id of another log", {
                let other = logs.second.sign(&Entry { issuer_key_hash: [0; 32], tbs: vec![] }, then, &[]).log_id;
                edited(&move |sct| sct.log_id = other)
            }),
            ("SHA-1", edited(&|sct| sct.hash_algorithm = 2)),
            ("RSA", edited(&|sct| sct.signature_algorithm = 1)),
            ("another signature", edited(&|sct| *sct.signature.last_mut().unwrap() ^= 1)),
            ("no signature", edited(&|sct| sct.signature.clear())),
            ("signature and more", edited(&|sct| sct.signature.push(0))),
            (
                "another issuer",
                made(&|entry| {
                    let entry = Entry { issuer_key_hash: [7; 32], tbs: entry.tbs.clone() };
                    list(&[octets(&logs.usable.sign(&entry, then, &[]))])
                }),
            ),
            (
                "another certificate",
                made(&|entry| {
                    let mut tbs = entry.tbs.clone();
                    *tbs.last_mut().unwrap() ^= 1;
                    let entry = Entry { issuer_key_hash: entry.issuer_key_hash, tbs };
                    list(&[octets(&logs.usable.sign(&entry, then, &[]))])
                }),
            ),
            ("version 2", single(&|sct| sct[0] = 1)),
            ("version 2 too", made(&|entry| list(&[vec![1, 2, 3], good(entry)]))),
            ("an SCT too long", single(&|sct| sct.push(0))),
            ("an SCT too short", single(&|sct| sct.truncate(sct.len() - 1))),
            ("an empty SCT", made(&|_| list(&[vec![]]))),
            ("an empty SCT too", made(&|entry| list(&[good(entry), vec![]]))),
            ("an empty list", made(&|_| list(&[]))),
            ("a list and more", wrapped(&|list| tlv(0x04, &[contents(&list), &[0]].concat()))),
            ("a list cut", wrapped(&|list| tlv(0x04, &contents(&list)[..contents(&list).len() - 1]))),
            ("unwrapped", wrapped(&|list| contents(&list).to_vec())),
            ("another wrapping", wrapped(&|list| tlv(0x03, contents(&list)))),
            ("wrapped and more", wrapped(&|list| [&list[..], &[0]].concat())),
        ]
    }

    /// A leaf with these lists, which are made over its precertificate.
    fn listed(&self, make: &[Make<'_>]) -> Rc<Party> {
        let issuer = &self.hierarchy.intermediate;
        let (key, params) = (p256(), vesper_params(&numbers()));
        let mut before = params.clone();
        before.custom_extensions.push(critical(extension(&oid::PRECERTIFICATE_POISON, vec![5, 0])));
        let precertificate = before.signed_by(&key, &issuer.issuer()).unwrap();
        let entry = Entry::of_precertificate(precertificate.der(), &issuer.spki()).unwrap();
        let mut after = params;
        after.custom_extensions.extend(make.iter().map(|make| extension(&oid::SCT_LIST, make(&entry))));
        let leaf = issuer.issue_with(after, key);
        Rc::new(Party { chain: self.hierarchy.chain(&leaf), key: leaf.key })
    }
}

fn octets(sct: &Sct) -> Vec<u8> {
    sct.to_octets().unwrap()
}
