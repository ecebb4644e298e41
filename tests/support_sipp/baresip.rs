//! Real user agents: baresip from the distribution, without sound.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::case::{self, Side, Transport};
use super::place::Place;
use super::process::{Process, poll};
use super::sipp::is_bound;

/// How long a call that stands is held before the caller hangs up.
const TALK: Duration = Duration::from_millis(500);

struct Agent {
    name: String,
    process: Process,
    log: PathBuf,
}

impl Agent {
    fn start(spec: &case::Baresip, place: &Place, directory: &Path) -> Self {
        let home = directory.join(&spec.name);
        fs::create_dir(&home).unwrap();
        let listen = place.fill(&spec.listen);
        fs::write(home.join("accounts"), format!("{}\n", place.fill(&spec.account))).unwrap();
        fs::write(home.join("silence.wav"), silence(60)).unwrap();
        let lines = [
            format!("sip_listen {listen}"),
            "module_path /usr/lib/baresip/modules".to_owned(),
            "audio_player aufile,/dev/null".to_owned(),
            format!("audio_source aufile,{}", home.join("silence.wav").display()),
            "audio_alert aufile,/dev/null".to_owned(),
            "module g711.so".to_owned(),
            "module aufile.so".to_owned(),
            "module_app account.so".to_owned(),
            "module_app menu.so".to_owned(),
        ];
        fs::write(home.join("config"), lines.join("\n") + "\n").unwrap();
        let log = home.join("log");
        let output = File::create(&log).unwrap();
        let mut command = Command::new("baresip");
        command.arg("-f").arg(&home).arg("-s");
        if let Some(uri) = &spec.calls {
            command.arg("-e").arg(format!("d{}", place.fill(uri)));
        }
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let process = Process::start(&spec.name, &mut command).unwrap_or_else(|e| match e.kind() {
            ErrorKind::NotFound => panic!("baresip is missing: install the Debian package baresip-core"),
            _ => panic!("baresip: {e}"),
        });
        let mut agent = Self { name: spec.name.clone(), process, log };
        let address: std::net::SocketAddr = listen.parse().expect("address:port");
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_up =
            poll(deadline, || agent.process.has_ended() || is_bound(Transport::Udp, address.ip(), address.port()));
        assert!(is_up && !agent.process.has_ended(), "{} does not listen\n{}", agent.name, agent.log());
        agent
    }

    fn log(&self) -> String {
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Finding, if it has not written `text` by `deadline`.
    fn expect(&self, text: &str, deadline: Instant) -> Option<String> {
        (!poll(deadline, || self.log().contains(text)))
            .then(|| format!("{} never said {text:?}; its log:\n{}", self.name, self.log()))
    }
}

/// A WAV file: 8000 samples of 16 bits a second, one channel.
fn silence(seconds: u32) -> Vec<u8> {
    let octets = seconds * 16_000;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + octets).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16u32.to_le_bytes());
    wav.extend([1u16, 1].iter().flat_map(|n| n.to_le_bytes())); // PCM, mono
    wav.extend([8_000u32, 16_000].iter().flat_map(|n| n.to_le_bytes()));
    wav.extend([2u16, 16].iter().flat_map(|n| n.to_le_bytes()));
    wav.extend(b"data");
    wav.extend(octets.to_le_bytes());
    wav.resize(wav.len() + octets as usize, 0);
    wav
}

/// Lets callers call callees. Findings: a call that does not stand on both sides, or does not end on both.
pub fn call(specs: &[case::Baresip], place: &Place, directory: &Path, deadline: Instant) -> Vec<String> {
    let start = |side| {
        let of_side = specs.iter().filter(move |spec| spec.side == side);
        of_side.map(|spec| Agent::start(spec, place, directory)).collect::<Vec<_>>()
    };
    let callees = start(Side::Callee);
    let callers = start(Side::Caller);
    let all = || callers.iter().chain(&callees);
    let mut findings: Vec<String> = all().filter_map(|agent| agent.expect("Call established", deadline)).collect();
    if !findings.is_empty() {
        return findings;
    }
    poll(Instant::now() + TALK, || false);
    for mut caller in callers {
        caller.process.signal("TERM"); // hangs up on its way out
        findings.extend(caller.process.wait(deadline).err());
        findings.extend(caller.expect("SIP/2.0 200 OK", deadline));
    }
    findings.extend(callees.iter().filter_map(|callee| callee.expect("BYE sip:", deadline)));
    findings.extend(callees.iter().filter_map(|callee| callee.expect("session closed", deadline)));
    findings
}
