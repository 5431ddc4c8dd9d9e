//! `mirror serve DIR`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::{Exit, Failure, Session, interrupt};
use crate::serve::{self, Options};

/// Serve a directory as a registry
///
/// Serves the OCI image layout directory DIR over the distribution API, for pulls and pushes, until Ctrl-C or
/// SIGTERM, which end it with 0. Many repositories live in one directory; a directory that is missing is
/// created. There is no login: whoever reaches the address may write, unless --read-only is given.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror serve images
  mirror serve images --listen 127.0.0.1:0 --output json
  mirror serve /media/usb/images --listen 0.0.0.0:5000 --read-only")]
pub struct Args {
    /// OCI image layout directory
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,

    /// Address and port to listen on; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000", value_parser = address)]
    listen: SocketAddr,

    /// Refuse every push and deletion, and write nothing to DIR
    #[arg(long)]
    read_only: bool,

    /// Accept manifests whose blobs or manifests are missing, such as an index of which some platforms were pushed
    #[arg(long, conflicts_with = "read_only")]
    sparse: bool,

    /// Repository for the images of a layout whose names have none [default: the name of DIR]
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let bad = "write an IP address and a port, as in 127.0.0.1:5000, 0.0.0.0:5000 or [::1]:5000";
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| bad.to_owned())
}

/// Said once, when requests are taken.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    address: SocketAddr,
    directory: String,
    read_only: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let options = Options {
        read_only: args.read_only,
        repository: args.repository.clone(),
        sparse: args.sparse,
        ..Options::new(&args.directory, args.listen)
    };
    let server = serve::spawn(options).await?;
    let address = server.address();
    let directory = args.directory.display().to_string();
    let text = format!("serving {directory} on http://{address} (Ctrl-C ends it)\n");
    let report = Report { address, directory, read_only: args.read_only };
    let said = session.report("mirror/serve/v1", &report, &text, Exit::Verified);
    if !address.ip().is_loopback() && !args.read_only {
        session.note("warning: there is no login: whoever reaches this address may write");
    }
    // A reader of the address that goes away after it is what scripts do: the server stays.
    if !matches!(said, Err(Failure::BrokenPipe)) {
        said?;
    }
    interrupt::until_signal(std::future::pending::<()>()).await?;
    server.shutdown().await?;
    Ok(Exit::Verified)
}
