//! The program as an operator runs it: started with an `edge.toml`, watched by its log and its page.
#![allow(dead_code)] // each test crate uses a part of it

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Far longer than anything takes; a hang ends as a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Program {
    directory: PathBuf,
    /// The directory, if it goes with the program.
    kept: Option<TempDir>,
    child: Child,
    /// Where it listens for SIP, by UDP.
    pub sip: SocketAddr,
    /// Where its page is.
    pub http: SocketAddr,
}

impl Program {
    /// With the `edge.toml` of this directory, which has a listener and `http`; its log is there too.
    pub fn run(directory: &Path, environment: &[(&str, &str)]) -> Self {
        let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let child = spawn(directory, environment);
        let mut program = Self { directory: directory.to_owned(), kept: None, child, sip: nobody, http: nobody };
        program.sip = program.address("listening");
        program.http = program.address("metrics");
        program
    }

    /// The same in a directory of its own.
    pub fn start_from(configuration: &str, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("edge.toml"), configuration).unwrap();
        let mut program = Self::run(directory.path(), environment);
        program.kept = Some(directory);
        program
    }

    /// Killed, no matter what it is doing, and started again at the same address.
    pub fn restart(&mut self, configuration: &str) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let bind = format!("bind = \"{}\"", self.sip);
        fs::write(self.file("edge.toml"), configuration.replace("bind = \"127.0.0.1:0\"", &bind)).unwrap();
        self.child = spawn(&self.directory, &[]);
        assert_eq!(self.address("listening"), self.sip);
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    /// The address in the line of the log with this word.
    pub fn address(&self, word: &str) -> SocketAddr {
        let line = self.expect(word);
        let behind = line.split("address=").nth(1).or(line.split("\"address\":\"").nth(1)).unwrap();
        behind.split([' ', '"', '\n']).next().unwrap().parse().unwrap()
    }

    /// Waits for a line of the log.
    pub fn expect(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("the log has no {text:?}:\n{}", self.log());
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status().unwrap();
        assert!(sent.success());
    }

    /// A whole HTTP response.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: edge\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        panic!("it does not end:\n{}", self.log());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path, environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vesperd"));
    command.args(["run", "--config", "edge.toml"]).current_dir(directory).stdin(Stdio::null());
    command.envs(environment.iter().copied());
    command.stderr(fs::File::create(directory.join("log")).unwrap()).spawn().unwrap()
}

/// A party of a call.
pub fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}
