//! `vesperd run`: the proxy.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::check_config::exit_code;
use super::difference::difference;
use super::log::Log;
use super::supervisor;
use crate::config::{Config, ConfigError, Environment, Mistakes};
use crate::node::admin::Order;
use crate::node::renewal::{Notice, Reminder, Watch};
use crate::node::{Edge, Observer, Summary, clock};

const EXAMPLES: &str = "\
Examples:
  vesperd run --config /etc/vesperd/edge.toml
  vesperd run --config edge.toml 2> edge.log

Stays in the foreground; logs to the standard error output. SIGHUP reads the configuration anew; one with mistakes, or with changes
that need a restart, is logged and the old one kept; the file of call records is opened anew in any case. SIGTERM or SIGINT stops it once
the requests under way have their answers (at most node.drain_timeout_seconds); meanwhile new calls get 503. A second signal stops it at once.

Exit codes:
  0  stopped by a signal
  1  the configuration has mistakes
  2  the configuration can not be read, or usage
  3  it could not start: an address could not be bound, a thread not started";

/// Run the proxy.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunCommand {
    /// The configuration file (TOML); `vesperd check-config` tells what is wrong with it.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

impl RunCommand {
    /// Runs until a signal comes.
    pub fn run(self) -> ExitCode {
        // Read once: what is in force is what changes are told against.
        let read = std::fs::read_to_string(&self.config);
        let read = read.map_err(|error| ConfigError::Unreadable(self.config.clone(), error)).and_then(|text| {
            let config = Config::parse_with(&text, &self.config, &Environment::of_process(), clock::unix());
            Ok((config.map_err(ConfigError::Mistakes)?, text))
        });
        let (config, text) = match read {
            Ok(read) => read,
            Err(error) => {
                eprintln!("{error}");
                return exit_code(&error);
            }
        };
        let log = match Log::start(config.node.log, &config.node.log_level) {
            Ok(log) => log,
            Err(error) => {
                eprintln!("log thread: {error}");
                return ExitCode::from(3);
            }
        };
        tracing::info!(version = env!("CARGO_PKG_VERSION"), configuration = %self.config.display(), "starting");
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        if config.proxy.keys.trunks.is_none() {
            tracing::warn!(
                "no node.route_key: after a restart, a re-INVITE of a standing call gets 481 if its trunk is untrusted"
            );
        }
        match serve(config, text, &self.config, &log) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::from(3)
            }
        }
    }
}

fn serve(config: Config, text: String, path: &Path, log: &Log) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is bound: a signal that comes early is not lost.
    let (mut stops, mut hang_up) =
        runtime.block_on(async { io::Result::Ok((Stops::new()?, signal(SignalKind::hangup())?)) })?;
    let mut running = Running {
        path,
        log,
        text,
        drain_timeout: config.node.drain_timeout,
        tls_leaves: config.tls_leaves.clone(),
        watch: Watch::new(&config.watched),
        reminder: Reminder::default(),
    };
    let mut edge = Edge::start(config, &Observer::default())?;
    for (name, transport, address) in edge.addresses() {
        tracing::info!(listener = name, transport = transport.via_token(), %address, "listening");
    }
    if let Some(address) = edge.http() {
        tracing::info!(%address, "metrics");
    }
    if let Some(address) = edge.stir_service() {
        tracing::info!(%address, "STIR service");
    }
    supervisor::notify("READY=1");
    runtime.block_on(async {
        let mut look = tokio::time::interval(LOOK_AT_FILES);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => running.look(&edge),
                () = stops.next() => break,
                _ = hang_up.recv() => {
                    let _ = running.reload(&edge);
                }
                order = edge.order() => match order {
                    Order::Reload(answer) => drop(answer.send(running.reload(&edge))),
                },
            }
        }
        supervisor::notify("STOPPING=1");
        drain(&edge, running.drain_timeout, &mut stops).await;
    });
    log_summary(&edge.stop());
    Ok(())
}

/// What of the configuration in force the program itself holds.
struct Running<'a> {
    path: &'a Path,
    log: &'a Log,
    /// The file as it was taken over last.
    text: String,
    drain_timeout: Duration,
    /// Leaf certificates for TLS in force, DER.
    tls_leaves: Vec<Vec<u8>>,
    /// Files of signers.
    watch: Watch,
    reminder: Reminder,
}

impl Running<'_> {
    /// Looks whether files of signers were replaced, and whether a certificate ends.
    fn look(&mut self, edge: &Edge) {
        let changed = self.watch.look();
        if !changed.is_empty() {
            let files: Vec<_> = changed.iter().map(|file| file.display().to_string()).collect();
            tracing::info!(files = files.join(" "), "files of signers were replaced");
            // The text in force, not that of the file: somebody may be writing it.
            let taken = self.parse(&self.text, edge).map_err(|mistakes| mistakes.to_string()).and_then(|mut config| {
                let tls_leaves = std::mem::take(&mut config.tls_leaves);
                edge.reload(config).map(|_| tls_leaves).map_err(|error| error.to_string())
            });
            edge.published().count_reload(taken.is_ok());
            match taken {
                Ok(tls_leaves) => {
                    self.tls_leaves = tls_leaves;
                    tracing::info!("signers: what was replaced is in force");
                }
                Err(why) => {
                    why.lines().for_each(|line| tracing::error!("{line}"));
                    tracing::error!("signers: what was replaced is not whole; the old certificates and keys go on");
                }
            }
        }
        for notice in self.reminder.look(clock::unix(), &edge.published().lives()) {
            match notice {
                Notice::Ends { signer, seconds } => {
                    let (days, hours) = (seconds / 86_400, seconds % 86_400 / 3600);
                    tracing::warn!(signer, seconds, "the certificate of a signer ends in {days} d {hours} h; renew it");
                }
                Notice::Ended { signer } => {
                    tracing::error!(signer, "the certificate of a signer has ended: it signs no more");
                }
            }
        }
    }

    /// A text that stands, or stood, in the file, with the files it names as they are now.
    fn parse(&self, text: &str, edge: &Edge) -> Result<Config, Mistakes> {
        let mut in_force = edge.published().leaves();
        in_force.extend_from_slice(&self.tls_leaves);
        Config::parse_again(text, self.path, &Environment::of_process(), clock::unix(), &in_force)
    }

    /// What SIGHUP and the admin socket ask for: opens the file of call records anew, reloads, and tells the supervisor. What has
    /// changed, or why nothing has.
    fn reload(&mut self, edge: &Edge) -> Result<Vec<String>, String> {
        supervisor::notify("RELOADING=1");
        edge.reopen_records();
        let taken = self.take(edge);
        edge.published().count_reload(taken.is_ok());
        supervisor::notify("READY=1");
        if let Err(why) = &taken {
            why.lines().for_each(|line| tracing::error!("{line}"));
            tracing::error!("reload: not taken over; the old one stays");
        }
        taken
    }

    /// Reads the file anew and goes on with it.
    fn take(&mut self, edge: &Edge) -> Result<Vec<String>, String> {
        let path = self.path;
        let text = std::fs::read_to_string(path).map_err(|error| format!("reload: {}: {error}", path.display()))?;
        let mut config = self
            .parse(&text, edge)
            .map_err(|mistakes| format!("{mistakes}\nreload: the new configuration has mistakes"))?;
        let (node, warnings) = (config.node.clone(), config.warnings.clone());
        let (watch, tls_leaves) = (Watch::new(&config.watched), std::mem::take(&mut config.tls_leaves));
        let later = edge.reload(config).map_err(|error| format!("reload: {error}"))?;
        self.log.set_level(&node.log_level);
        let mut changes = difference(&self.text, &text);
        changes.iter().for_each(|change| tracing::info!("reload: {change}"));
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let later: Vec<_> = later.iter().map(|key| format!("{key} needs a restart: not in force yet")).collect();
        later.iter().for_each(|what| tracing::warn!("reload: {what}"));
        let but = if later.is_empty() { "" } else { ", but for what needs a restart" };
        tracing::info!(changes = changes.len(), "reload: the new configuration is in force{but}");
        changes.extend(later);
        (self.text, self.drain_timeout) = (text, node.drain_timeout);
        (self.watch, self.tls_leaves) = (watch, tls_leaves);
        Ok(changes)
    }
}

/// Waits until all requests have their answers, the time is over, or a second signal comes.
async fn drain(edge: &Edge, limit: Duration, stops: &mut Stops) {
    edge.drain();
    let published = edge.published();
    tokio::time::sleep(LOOK).await; // the workers write down how they stand when they get the order
    let quiet = async {
        while published.unanswered() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    let unanswered = published.unanswered();
    tracing::info!(unanswered, seconds = limit.as_secs(), "draining");
    tokio::select! {
        () = quiet => {}
        () = tokio::time::sleep(limit) => tracing::warn!(unanswered = published.unanswered(), "drain timeout"),
        () = stops.next() => tracing::warn!(unanswered = published.unanswered(), "stopped by a second signal"),
    }
}

/// How often files of signers, and the ends of their certificates, are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(2);
/// How often a draining edge looks whether it is done.
const LOOK: Duration = Duration::from_millis(100);

/// The signals that mean the end.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}

fn log_summary(summary: &Summary) {
    let counters: Vec<String> =
        summary.proxy.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}")).collect();
    let Summary { live, worker, udp, tcp, restarts, .. } = summary;
    tracing::info!(live, restarts, proxy = counters.join(" "), ?worker, ?udp, ?tcp, "stopped");
}
