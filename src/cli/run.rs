//! `vesperd run`: the proxy.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::check_config::exit_code;
use super::log::Log;
use crate::config::Config;
use crate::node::{Edge, Observer, Summary, clock};

const EXAMPLES: &str = "\
Examples:
  vesperd run --config /etc/vesperd/edge.toml
  vesperd run --config edge.toml 2> edge.log

Stays in the foreground; logs to the standard error output. SIGTERM or SIGINT stops it.

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
        let config = match Config::load(&self.config, clock::unix()) {
            Ok(config) => config,
            Err(error) => {
                eprintln!("{error}");
                return exit_code(&error);
            }
        };
        let _log = match Log::start(config.node.log, &config.node.log_level) {
            Ok(log) => log,
            Err(error) => {
                eprintln!("log thread: {error}");
                return ExitCode::from(3);
            }
        };
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        match serve(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::from(3)
            }
        }
    }
}

fn serve(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is bound: a signal that comes early is not lost.
    let stop = runtime.block_on(async { stop_signal() })?;
    let edge = Edge::start(config, &Observer::default())?;
    for (name, transport, address) in edge.addresses() {
        tracing::info!(listener = name, transport = transport.via_token(), %address, "listening");
    }
    runtime.block_on(stop);
    log_summary(&edge.stop());
    Ok(())
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    })
}

fn log_summary(summary: &Summary) {
    let counters: Vec<String> =
        summary.proxy.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}")).collect();
    let Summary { live, worker, udp, tcp, restarts, .. } = summary;
    tracing::info!(live, restarts, proxy = counters.join(" "), ?worker, ?udp, ?tcp, "stopped");
}
