//! certs.d, containers-certs.d(5): a directory for each host, with the authorities to trust besides the system's
//! (`*.crt`) and the client's own certificate and key (`*.cert`, `*.key`).
//!
//! Invariant: the first directory that exists for a host is the one; nothing is looked for in the others.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Environment, Error, Origin, Result, Setting, Tls};

const SYSTEM: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Where the directories of hosts are looked for: the user's first.
pub(super) fn directories(environment: &Environment) -> Vec<PathBuf> {
    let users = environment.config_home().map(|home| home.join("containers/certs.d"));
    users.into_iter().chain(SYSTEM.map(PathBuf::from)).collect()
}

/// What the first of `directories` that knows the host (with its port) has for it.
pub(super) fn find(directories: &[PathBuf], authority: &str) -> Result<Option<Tls>> {
    for directory in directories {
        let directory = directory.join(authority);
        match std::fs::read_dir(&directory) {
            Ok(entries) => {
                let names = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
                return read(&directory, names.map_err(|e| Error::io(&directory, e))?).map(Some);
            }
            // As podman does: what is closed to this user is not for this user.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {}
            Err(e) => return Err(Error::io(&directory, e)),
        }
    }
    Ok(None)
}

fn read(directory: &Path, mut names: Vec<std::ffi::OsString>) -> Result<Tls> {
    names.sort();
    let mut tls = Tls::default();
    for name in &names {
        let path = directory.join(name);
        let has = |extension: &str| names.iter().any(|other| directory.join(other) == path.with_extension(extension));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") if path.exists() => tls.ca.push(path),
            Some("cert") if !has("key") => {
                return Err(Error::invalid(
                    &path,
                    None,
                    "its key, a file of that name with .key, is missing; an authority is a .crt",
                ));
            }
            Some("key") if !has("cert") => {
                return Err(Error::invalid(&path, None, "its certificate, a file of that name with .cert, is missing"));
            }
            // One is shown; the first by name where there are several.
            Some("cert") if tls.client_certificate.is_none() => {
                tls.client_certificate = Some((path.clone(), path.with_extension("key")));
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// Which hosts have a directory, for `config show`.
pub(super) fn settings(directories: &[PathBuf]) -> Result<Vec<Setting>> {
    let mut settings: Vec<Setting> = Vec::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut hosts: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        hosts.sort();
        for host in hosts {
            let key = format!("certs.d.{host}");
            if settings.iter().any(|known| known.key == key) {
                continue;
            }
            let tls = find(directories, &host)?.unwrap_or_default();
            let files =
                tls.ca.into_iter().chain(tls.client_certificate.into_iter().flat_map(|(cert, key)| [cert, key]));
            let names = files.filter_map(|f| Some(f.file_name()?.to_string_lossy().into_owned())).collect::<Vec<_>>();
            let origin = Origin::File { file: directory.join(&host).display().to_string(), line: None };
            settings.push(Setting::new(key, names, origin));
        }
    }
    Ok(settings)
}
