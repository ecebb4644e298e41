//! The OpenSSL command line: certificate paths and digests.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What OpenSSL said of a chain: it leads to the anchor at all, it does now.
type Paths = HashMap<Vec<Vec<u8>>, (bool, bool)>;

pub struct OpenSsl {
    directory: tempfile::TempDir,
    anchor: PathBuf,
    paths: Paths,
    digests: HashMap<(String, Vec<u8>), Vec<u8>>,
    /// Processes started.
    pub asked: usize,
}

impl OpenSsl {
    pub fn new(anchor: &[u8]) -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("anchor.pem");
        std::fs::write(&path, pem(anchor)).unwrap();
        Self { directory, anchor: path, paths: Paths::new(), digests: HashMap::new(), asked: 0 }
    }

    pub fn digest(&mut self, hash: &str, octets: &[u8]) -> Vec<u8> {
        let key = (hash.to_owned(), octets.to_vec());
        if let Some(known) = self.digests.get(&key) {
            return known.clone();
        }
        let mut command = Command::new("openssl");
        command.arg("dgst").arg(format!("-{hash}")).arg("-binary");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(octets).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{hash}");
        self.asked += 1;
        self.digests.insert(key, output.stdout.clone());
        output.stdout
    }

    pub fn paths_of(&mut self, chain: &[Vec<u8>], now: i64) -> (bool, bool) {
        if let Some(known) = self.paths.get(chain) {
            return *known;
        }
        let file = |name: &str, certificates: &[Vec<u8>]| {
            let path = self.directory.path().join(name);
            std::fs::write(&path, certificates.iter().map(|der| pem(der)).collect::<String>()).unwrap();
            path
        };
        let (leaf, others) = (file("leaf.pem", &chain[..1]), file("others.pem", &chain[1..]));
        let has_others = chain.len() > 1;
        // RFC 7515 4.1.6: each one certifies the one before. OpenSSL takes them in any order, so each pair is asked about.
        let certifies = |pair: &[Vec<u8>]| {
            let (below, above) = (file("below.pem", &pair[..1]), file("above.pem", &pair[1..]));
            let check = ["verify", "-no_check_time", "-partial_chain", "-no-CApath", "-no-CAstore", "-trusted"];
            quietly(Command::new("openssl").args(check).arg(above).arg(below))
        };
        let is_ordered = chain.windows(2).all(certifies);
        let verifies = |time: &[&str]| verify(&self.anchor, has_others.then_some(&*others), &leaf, time);
        let (leads, leads_now) = (verifies(&["-no_check_time"]), verifies(&["-attime", &now.to_string()]));
        let answer = (is_ordered && leads, is_ordered && leads_now);
        self.asked += 1 + chain.len();
        self.paths.insert(chain.to_vec(), answer);
        answer
    }
}

fn verify(anchor: &Path, others: Option<&Path>, leaf: &Path, time: &[&str]) -> bool {
    let mut command = Command::new("openssl");
    command.arg("verify").arg("-no-CApath").arg("-no-CAstore").arg("-CAfile").arg(anchor).args(time);
    if let Some(others) = others {
        command.arg("-untrusted").arg(others);
    }
    quietly(command.arg(leaf))
}

fn quietly(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
