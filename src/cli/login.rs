//! `mirror login` and `mirror logout`: keep and forget the credential for a registry.
//!
//! Invariant: a password comes from standard input or from a terminal that does not show it, never from
//! an argument, where everybody on the machine could read it.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::{Exit, Failure, Session, interrupt};
use crate::config::credentials::Chain;
use crate::config::login::{self, Kept};
use crate::config::{Config, Credential};
use crate::image::Reference;
use crate::store;
use crate::store::registry::{Client, Login as Check};

/// More than this is not a password.
const MAX_PASSWORD: u64 = 64 * 1024;

/// Keep a user name and password for a registry
///
/// Shows them to the registry first; what it refuses is not kept.
///
/// Writes them to a credential file that podman, skopeo and Docker read too: FILE, else $REGISTRY_AUTH_FILE, else
/// registryAuthFile of the configuration, else $XDG_RUNTIME_DIR/containers/auth.json, else
/// ~/.config/containers/auth.json. Where that file names a credential helper, the helper keeps them.
///
/// The password is asked for on the terminal, without an echo, or read from standard input.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror login reg.low
  mirror login reg.low:5000/team -u robot --password-stdin < token.txt
  mirror login reg.low --authfile auth.json")]
pub struct Login {
    #[command(flatten)]
    target: Target,

    /// User name [default: asked for on the terminal]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Read the password from standard input (one line end at its end is not part of it)
    #[arg(long, requires = "user")]
    password_stdin: bool,
}

/// Forget the credential for a registry
///
/// Takes it out of the credential file that login writes to, and out of the credential helper that this file
/// names. Says so if another file still has one.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror logout reg.low
  mirror logout reg.low:5000/team --authfile auth.json")]
pub struct Logout {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Host with an optional port; with a path, for the repositories at and under it only
    #[arg(value_name = "REGISTRY[/PATH]", value_parser = scope)]
    registry: Scope,

    /// Credential file to change
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    authfile: Option<PathBuf>,
}

/// What a credential is for.
#[derive(Clone, Debug)]
struct Scope {
    registry: String,
    /// May be empty.
    repository: String,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.registry)?;
        if self.repository.is_empty() { Ok(()) } else { write!(f, "/{}", self.repository) }
    }
}

fn scope(text: &str) -> Result<Scope, String> {
    let text = text.trim_end_matches('/');
    if text.contains("://") {
        return Err("write the host only, without https://".into());
    }
    let (registry, repository) = text.split_once('/').unwrap_or((text, ""));
    let sample = if repository.is_empty() { format!("{registry}/x") } else { text.to_owned() };
    match sample.parse::<Reference>() {
        Ok(reference) if reference.tag.is_none() && reference.digest.is_none() => {
            Ok(Scope { registry: registry.into(), repository: repository.into() })
        }
        Ok(_) => Err("write a repository without tag or digest".into()),
        Err(error) => Err(error.reason),
    }
}

/// The registry, or its token server, does not take this user with this password.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotAccepted(store::Error);

impl NotAccepted {
    pub fn hint(&self) -> String {
        "check the user name and the password; an account with a second factor or single sign-on needs an access token \
         in place of its password"
            .into()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    registry: String,
    file: String,
    /// `docker-credential-NAME` that keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    helper: Option<String>,
    /// Whether the registry accepted it; `false`: it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<bool>,
    /// Whether logout found something to forget.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
}

pub async fn login(args: &Login, session: &Session) -> Result<Exit, Failure> {
    let config = session.config()?;
    let scope = &args.target.registry;
    let file = args.target.file(&config)?;
    let (user, password) = interrupt::guarded("nothing was kept", ask(args)).await?;
    let credential = Credential::Basic { user: user.clone(), password: password.clone() };
    let trial = Client::new(Arc::new(Config::clone(&config).with_credentials(Chain::fixed(credential))));
    let check = async {
        trial.check_login(&scope.registry, &scope.repository).await.map_err(|error| match error {
            store::Error::Unauthorized { .. } => NotAccepted(error).into(),
            other => other.into(),
        })
    };
    let checked = interrupt::guarded("nothing was kept", check).await?;
    let remark = match checked {
        Check::Accepted => "",
        Check::NotAsked => " (not checked: the registry asks for none)",
        Check::Elsewhere => " (neither checked nor used: the configuration leads to other endpoints; log in to those)",
    };
    let kept = login::store(&file, &scope.registry, &scope.repository, &user, &password).await?;
    let file = file.display().to_string();
    let helper = match kept {
        Kept::File => None,
        Kept::Helper(name) => Some(format!("docker-credential-{name}")),
    };
    let place = helper.as_deref().unwrap_or(&file);
    let text = format!("kept the credential of {user} for {scope} in {place}{remark}\n");
    let report = Report {
        registry: scope.to_string(),
        file: file.clone(),
        helper,
        checked: Some(checked == Check::Accepted),
        removed: None,
    };
    session.report("mirror/login/v1", &report, &text, Exit::Verified)?;
    Ok(Exit::Verified)
}

pub async fn logout(args: &Logout, session: &Session) -> Result<Exit, Failure> {
    let config = session.config()?;
    let scope = &args.target.registry;
    let file = args.target.file(&config)?;
    let removed = login::remove(&file, &scope.registry, &scope.repository).await?;
    let text = match removed {
        true => format!("forgot the credential for {scope} in {}\n", file.display()),
        false => format!("{} has no credential for {scope}\n", file.display()),
    };
    let report = Report {
        registry: scope.to_string(),
        file: file.display().to_string(),
        helper: None,
        checked: None,
        removed: Some(removed),
    };
    session.report("mirror/logout/v1", &report, &text, Exit::Verified)?;
    // What was just erased must not be remembered: asked anew.
    if let Some((other, _)) = config.credentials().find_with_file(&scope.registry, &scope.repository).await? {
        session.note(&format!("warning: {} still has a credential that is used for {scope}", other.display()));
    }
    Ok(Exit::Verified)
}

impl Target {
    fn file(&self, config: &Config) -> Result<PathBuf, Failure> {
        self.authfile.clone().or_else(|| config.login_file()).ok_or_else(|| {
            Failure::usage(anyhow!("there is no place for a credential file: name one with --authfile, or set HOME"))
        })
    }
}

/// The user's name and password.
async fn ask(args: &Login) -> Result<(String, SecretString), Failure> {
    if !args.password_stdin && !std::io::stdin().is_terminal() {
        return Err(Failure::usage(anyhow!("no terminal to ask for a password on: use -u USER --password-stdin")));
    }
    let user = match &args.user {
        Some(user) => user.clone(),
        None => line("User name: ").await?.expose_secret().to_owned(),
    };
    let password = if args.password_stdin {
        blocking(|| {
            let mut text = String::new();
            std::io::stdin().lock().take(MAX_PASSWORD).read_to_string(&mut text)?;
            Ok(text)
        })
        .await?
    } else {
        // Lives until the line is read, or until a signal drops this.
        let _silence = Silence::begin()?;
        line("Password: ").await?
    };
    if password.expose_secret().is_empty() {
        return Err(Failure::usage(anyhow!("the password is empty")));
    }
    Ok((user, password))
}

/// Asks for one line on the terminal.
async fn line(prompt: &'static str) -> Result<SecretString, Failure> {
    let ask = || {
        let mut out = std::io::stderr().lock();
        out.write_all(prompt.as_bytes())?;
        out.flush()
    };
    ask().context("cannot ask on the terminal")?;
    // It is readable when there is a whole line: a signal that drops this leaves no thread behind that waits for one.
    while !is_readable().context("cannot read from the terminal")? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    blocking(|| {
        let mut text = String::new();
        std::io::stdin().lock().take(MAX_PASSWORD).read_line(&mut text)?;
        Ok(text)
    })
    .await
}

fn is_readable() -> nix::Result<bool> {
    let stdin = std::io::stdin();
    poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).map(|ready| ready > 0)
}

async fn blocking(read: impl FnOnce() -> std::io::Result<String> + Send + 'static) -> Result<SecretString, Failure> {
    let text = tokio::task::spawn_blocking(read).await?.context("cannot read standard input")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(line.strip_suffix('\r').unwrap_or(line)))
}

/// A terminal that does not show what is typed. Dropping it brings the echo back.
struct Silence(Termios);

impl Silence {
    fn begin() -> Result<Silence, Failure> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).context("cannot turn off the terminal's echo")?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        quiet.local_flags.insert(LocalFlags::ECHONL);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &quiet).context("cannot turn off the terminal's echo")?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_a_host_or_a_path_on_it() {
        assert_eq!(scope("reg.low:5000/").unwrap().to_string(), "reg.low:5000");
        assert_eq!(scope("reg.low/a/b").unwrap().repository, "a/b");
        for bad in ["", "https://reg.low", "reg.low/a:tag", "reg.low/UPPER", "reg low", "reg.low:x"] {
            assert!(scope(bad).is_err(), "{bad}");
        }
    }
}
