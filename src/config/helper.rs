//! Credential helpers: programs named `docker-credential-NAME` that keep secrets
//! (docker/docker-credential-helpers). The server goes in on stdin, JSON comes out.
//!
//! Invariant: a helper has [`TIMEOUT`] to answer and is killed after it; what it prints is not repeated
//! unless it says that it failed.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::credentials::Credential;
use super::{Error, Result};

/// How long a helper may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// More output than this is not an answer.
const MAX_OUTPUT: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: SecretString,
}

/// What the helper has for `server`; `None` if it says that it has nothing.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Credential>> {
    let failed = |reason: &str| fault(name, server, reason.into());
    let Some(out) = run(name, "get", server, &SecretString::from(server)).await? else { return Ok(None) };
    let answer: Answer =
        serde_json::from_str(out.expose_secret()).map_err(|_| failed("its answer is not the JSON of a credential"))?;
    if answer.secret.expose_secret().is_empty() {
        return Ok(None);
    }
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::Identity(answer.secret),
        "" => return Err(failed("its answer has no user name")),
        _ => Credential::Basic { user: answer.username, password: answer.secret },
    }))
}

/// Gives the helper a credential to keep.
pub(super) async fn store(name: &str, server: &str, user: &str, password: &SecretString) -> Result<()> {
    let input = serde_json::json!({"ServerURL": server, "Username": user, "Secret": password.expose_secret()});
    match run(name, "store", server, &SecretString::from(input.to_string())).await? {
        Some(_) => Ok(()),
        None => Err(fault(name, server, "it did not keep the credential".into())),
    }
}

/// Makes the helper forget a credential. `false`: it had none.
pub(super) async fn erase(name: &str, server: &str) -> Result<bool> {
    Ok(run(name, "erase", server, &SecretString::from(server)).await?.is_some())
}

/// Runs `docker-credential-NAME ACTION`. `None`: it says that it has no such credential.
async fn run(name: &str, action: &str, server: &str, input: &SecretString) -> Result<Option<SecretString>> {
    let failed = |reason: String| fault(name, server, reason);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(failed("not a name for a helper (letters, digits, - _ .)".into()));
    }
    let mut command = Command::new(program(name));
    command.arg(action);
    let (status, out, err) = converse(command, input, TIMEOUT).await.map_err(failed)?;
    if status.success() {
        return Ok(Some(out));
    }
    // A helper says why it failed on stdout.
    let message = format!("{}\n{}", out.expose_secret().trim(), err.expose_secret().trim());
    if message.contains("credentials not found") {
        return Ok(None);
    }
    let first: String =
        message.trim().lines().next().unwrap_or_default().chars().take(200).flat_map(char::escape_debug).collect();
    Err(failed(if first.is_empty() { status.to_string() } else { format!("{first} ({status})") }))
}

/// Runs a program with that input. Gives how it ended, its output and its error output, or why it could
/// not be had.
async fn converse(
    mut command: Command,
    input: &SecretString,
    limit: Duration,
) -> std::result::Result<(ExitStatus, SecretString, SecretString), String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                "the program is not in $PATH: install it, or take its name out of the credential file".into()
            }
            _ => e.to_string(),
        })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that does not read its input may still have an answer.
                let _ = stdin.write_all(input.expose_secret().as_bytes()).await;
            }
            std::io::Result::Ok(())
        };
        let (_, out, err) = tokio::try_join!(write, read(stdout), read(stderr))?;
        std::io::Result::Ok((child.wait().await?, out, err))
    };
    // Dropping the child kills it.
    let ended = tokio::time::timeout(limit, talk).await;
    ended.map_err(|_| format!("no answer within {} s", limit.as_secs_f32()))?.map_err(|e| e.to_string())
}

async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> std::io::Result<SecretString> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned().into())
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

fn fault(name: &str, server: &str, reason: String) -> Error {
    Error::Helper { program: program(name), server: server.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_does_not_answer_is_not_waited_for() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let said = converse(command, &"x".into(), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(said, "no answer within 0.05 s");
    }

    #[tokio::test]
    async fn large_input_and_output_do_not_block_each_other() {
        let input = SecretString::from("x".repeat(500_000));
        let (status, out, _) = converse(Command::new("cat"), &input, TIMEOUT).await.unwrap();
        assert!(status.success() && out.expose_secret() == input.expose_secret());
    }

    #[tokio::test]
    async fn a_name_is_not_a_path() {
        for name in ["../x", "a/b", "", "a b"] {
            assert!(get(name, "reg.low").await.unwrap_err().to_string().contains("not a name for a helper"), "{name}");
        }
    }
}
