//! A thread beside the workers, with a runtime of its own, for what may wait.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// The thread. When this is dropped, its work is abandoned where it waits, and the thread has ended.
pub(super) struct SideThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SideThread {
    /// Starts it; `work` makes the future that is its life, within the runtime.
    ///
    /// # Errors
    /// No runtime, no thread.
    pub fn start<F: Future<Output = ()>>(name: &str, work: impl FnOnce() -> F + Send + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! { () = work() => {}, _ = stopped => {} }
            });
            // Something may hang in a call of the system's, such as a name lookup: do not wait for it.
            runtime.shutdown_background();
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for SideThread {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
