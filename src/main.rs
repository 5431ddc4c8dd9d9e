//! The program: installs the cryptography, starts the runtime, runs the command line, returns its exit code.

use std::process::ExitCode;
use std::time::Duration;

use airgap_mirror::cli;

fn main() -> ExitCode {
    // Fails only if a provider is installed already, and nothing ran before this.
    let _ = rustls::crypto::ring::default_provider().install_default();
    share_freed_memory();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return cli::Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(cli::run(std::env::args_os().collect()));
    // Disk work that is under way ends first, so that temporary files can go; a stuck disk is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(2));
    exit.into()
}

/// Has all threads use one heap: glibc gives each its own, where what one has freed is kept from the others, in the end
/// 15 MiB of 109 when serializing to a pipe. Must come before the first other thread.
fn share_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number in the allocator, and no other thread is there yet. If it is refused, all works as before.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}
