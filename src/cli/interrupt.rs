//! Ctrl-C and SIGTERM: the first one drops the work, which leaves nothing that looks complete; a second
//! one ends the program at once. The signal of a file that grows too long ends nothing: the write that fails tells.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{Exit, Failure};

/// Makes a file that passes the limit of its size (`ulimit -f`) a failed write, which is told and cleaned up after,
/// and not the end of the program. Must be called within a tokio runtime.
pub fn outlive_size_limits() -> std::io::Result<()> {
    // The handler stays when the listener is dropped.
    signal(SignalKind::from_raw(nix::libc::SIGXFSZ)).map(drop)
}

/// Waits for either signal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs `work` unless a signal comes first; `None` then, with the work dropped. The watcher stays, so
/// that a second signal ends even a clean-up that hangs.
pub async fn until_signal<T>(work: impl Future<Output = T>) -> std::io::Result<Option<T>> {
    let mut signals = Signals::new()?;
    let (stop, stopped) = oneshot::channel();
    let watcher = tokio::spawn(async move {
        signals.next().await;
        // Nobody waits any more when the work has just ended.
        let _ = stop.send(());
        signals.next().await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    Ok(tokio::select! {
        result = work => {
            watcher.abort();
            Some(result)
        }
        _ = stopped => None,
    })
}

/// Runs `work`; a signal makes it [`Failure::Interrupted`], with `next` as the way to go on.
pub async fn guarded<T>(next: &'static str, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    until_signal(work).await?.unwrap_or(Err(Failure::Interrupted { next }))
}
