//! Signers of a running program: certificates of a lab, keys in files or in a hardware module (SoftHSM), and one that hangs.
#![allow(dead_code)] // each test crate uses a part of it

use std::fs;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use tempfile::TempDir;
use vesperd::cert::Certificate;
use vesperd::node::clock;
use vesperd::pki::lab::{self, Credential, Lab, Options};

pub const PIN: &str = "846239157";

/// A lab, and its directory.
pub fn lab() -> (TempDir, Lab) {
    let directory = TempDir::new().unwrap();
    let lab = lab::create(directory.path(), clock::unix(), &Options::default()).unwrap();
    (directory, lab)
}

pub fn pem(chain: &[Vec<u8>]) -> String {
    let one = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    chain.iter().map(one).collect()
}

/// Certificate and key of a signer, as files.
pub fn write_credential(directory: &Path, name: &str, credential: &Credential) {
    fs::write(directory.join(format!("{name}.pem")), pem(&credential.chain)).unwrap();
    fs::write(directory.join(format!("{name}-key.pem")), credential.key.serialize_pem()).unwrap();
}

/// The token of a copy, if the certificate's key has signed it.
pub fn verified(copy: &str, leaf: &[u8]) -> Option<Value> {
    let token = copy.split("Identity: ").nth(1)?.split(';').next().unwrap();
    let (input, signature) = token.rsplit_once('.').unwrap();
    let certificate = Certificate::from_der(leaf).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, certificate.es256_point().unwrap());
    key.verify(input.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).ok()?;
    let payload = input.split('.').nth(1).unwrap();
    Some(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap())
}

/// Makes a token with the key of the credential, and a file with its PIN; gives the path of SoftHSM's configuration. Where SoftHSM is not
/// installed nothing passes: `tests/run` installs it.
pub fn token(directory: &Path, credential: &Credential) -> String {
    fs::create_dir_all(directory.join("tokens")).unwrap();
    let conf = directory.join("softhsm2.conf");
    fs::write(
        &conf,
        format!("directories.tokendir = {}\nobjectstore.backend = file\n", directory.join("tokens").display()),
    )
    .unwrap();
    softhsm(directory, &["--init-token", "--free", "--label", "edge", "--pin", PIN, "--so-pin", "12345678"]);
    import(directory, credential);
    fs::write(directory.join("pin"), format!("{PIN}\n")).unwrap();
    conf.display().to_string()
}

/// Puts the key of the credential into the token of this directory, as `sti`.
pub fn import(directory: &Path, credential: &Credential) {
    fs::write(directory.join("import.pem"), credential.key.serialize_pem()).unwrap();
    softhsm(
        directory,
        &["--import", "import.pem", "--token", "edge", "--label", "sti", "--id", "01", "--force", "--pin", PIN],
    );
    fs::remove_file(directory.join("import.pem")).unwrap();
}

fn softhsm(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("softhsm2-util");
    let conf = directory.join("softhsm2.conf");
    let output = command.args(arguments).current_dir(directory).env("SOFTHSM2_CONF", conf).output();
    let output = output.expect("softhsm2-util is installed (Debian package softhsm2)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The module of SoftHSM.
pub fn module() -> String {
    let places =
        ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"];
    (*places.iter().find(|place| Path::new(place).is_file()).expect("the module of SoftHSM")).to_owned()
}

/// The line of a signer whose key is behind this module.
pub fn in_module(module: &str, label: &str) -> String {
    format!("pkcs11 = {{ module = \"{module}\", token = \"edge\", label = \"{label}\", pin_file = \"pin\" }}")
}

/// Builds the module of `hang.c` in this directory. It wants `HANG_BEHIND` and `HANG_WHILE` in its environment.
pub fn hanging_module(directory: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support_module/hang.c");
    let object = directory.join("hang.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wall", "-o"]).arg(&object).arg(source).arg("-ldl");
    let output = compiler.output().expect("a C compiler is installed (Debian package gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    object.display().to_string()
}
