//! The configuration file and credentials, through the program.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::{contains, is_empty, starts_with};

/// The program in `home`, with nothing of the user's own configuration.
fn mirror(home: &Path) -> Command {
    let mut command = Command::cargo_bin("mirror").unwrap();
    command.current_dir(home).env("HOME", home);
    for variable in [
        "MIRROR_CONFIG",
        "REGISTRY_AUTH_FILE",
        "DOCKER_CONFIG",
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "MIRROR_LOG",
        "CONTAINERS_REGISTRIES_CONF",
    ] {
        command.env_remove(variable);
    }
    command
}

fn write(path: impl AsRef<Path>, text: &str) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

const TYPO: &str = "registryConfig:\n  registries:\n    reg.low:\n      endpoint: [https://a]\n";

#[test]
fn an_invalid_file_is_a_usage_error_with_file_line_and_key_wherever_it_is_found() {
    let home = tempfile::tempdir().unwrap();
    let said = |file: &str| format!("error: {file}:4:7: unknown key \"endpoint\"; did you mean \"endpoints\"?");
    let fails = |command: &mut Command, file: &str| {
        command.args(["logout", "reg.low"]).assert().code(2).stdout(is_empty()).stderr(starts_with(said(file)));
    };
    write(home.path().join(".config/mirror/config.yaml"), TYPO);
    let file = home.path().join(".config/mirror/config.yaml");
    fails(&mut mirror(home.path()), file.to_str().unwrap());
    write(home.path().join("mirror.yaml"), TYPO);
    fails(&mut mirror(home.path()), "mirror.yaml");
    write(home.path().join("env.yaml"), TYPO);
    fails(mirror(home.path()).env("MIRROR_CONFIG", "env.yaml"), "env.yaml");
    write(home.path().join("flag.yaml"), TYPO);
    fails(mirror(home.path()).env("MIRROR_CONFIG", "env.yaml").args(["--config", "flag.yaml"]), "flag.yaml");
    write(home.path().join("good.yaml"), "registryConfig: {}\n");
    mirror(home.path()).args(["--config", "good.yaml", "logout", "reg.low"]).assert().success();
}

#[test]
fn a_file_that_was_named_must_exist() {
    let home = tempfile::tempdir().unwrap();
    let missing = |by: &str| contains(format!("none.yaml: no such configuration file (named by {by})"));
    mirror(home.path()).args(["--config", "none.yaml", "logout", "r"]).assert().code(2).stderr(missing("--config"));
    let mut command = mirror(home.path());
    command.env("MIRROR_CONFIG", "none.yaml").args(["logout", "r"]).assert().code(2).stderr(missing("$MIRROR_CONFIG"));
    mirror(home.path()).args(["logout", "reg.low"]).assert().success();
}

#[test]
fn an_ace_dt_file_is_taken_as_it_stands() {
    let home = tempfile::tempdir().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/config/ace-dt.yaml");
    mirror(home.path())
        .args(["--config", file, "logout", "reg.low"])
        .assert()
        .success()
        .stdout(contains(".docker/config.json has no credential for reg.low"))
        .stderr(is_empty());
}

#[test]
fn a_broken_credential_file_is_named_and_not_repeated() {
    let home = tempfile::tempdir().unwrap();
    write(home.path().join("auth.json"), "{\n  \"auths\": {\"reg.low\": \"geheim\"}\n}\n");
    mirror(home.path())
        .env("REGISTRY_AUTH_FILE", "auth.json")
        .args(["logout", "reg.low"])
        .assert()
        .code(1)
        .stderr(contains("auth.json:2:").and(contains("geheim").not()));
}

#[test]
fn a_password_is_not_an_argument_and_needs_a_source() {
    let home = tempfile::tempdir().unwrap();
    mirror(home.path()).args(["login", "reg.low", "-u", "u", "--password", "geheim"]).assert().code(2);
    let mut command = mirror(home.path());
    command.args(["login", "reg.low", "-u", "u"]).assert().code(2).stderr(contains("--password-stdin"));
    for (registry, reason) in [("https://reg.low", "without https://"), ("reg.low/a:tag", "without tag")] {
        mirror(home.path()).args(["logout", registry]).assert().code(2).stderr(contains(reason));
    }
}

/// A helper that keeps credentials in the file `kept`, and says when it was asked.
fn install_helper(home: &Path, script: &str) -> String {
    let bin = home.join("bin");
    let helper = bin.join("docker-credential-test");
    write(&helper, script);
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn logout_makes_the_helper_forget_and_names_other_files_that_remember() {
    let home = tempfile::tempdir().unwrap();
    let path = install_helper(
        home.path(),
        "#!/bin/sh\nread -r server\necho \"$1 $server\" >> \"$HOME/asked\"\n\
         [ \"$1\" = get ] && { echo 'credentials not found in native keychain'; exit 1; }\nexit 0\n",
    );
    write(home.path().join("auth.json"), r#"{"credHelpers": {"reg.low": "test"}}"#);
    write(home.path().join(".docker/config.json"), r#"{"auths": {"reg.low": {"auth": "dTpw"}}}"#);
    mirror(home.path())
        .env("PATH", path)
        .env("REGISTRY_AUTH_FILE", "auth.json")
        .args(["logout", "reg.low"])
        .assert()
        .success()
        .stdout(contains("forgot the credential for reg.low"))
        .stderr(contains(".docker/config.json still has a credential that is used for reg.low"));
    assert_eq!(std::fs::read_to_string(home.path().join("asked")).unwrap(), "erase reg.low\nget reg.low\n");
}

#[test]
fn a_helper_that_fails_is_named_with_its_reason() {
    let home = tempfile::tempdir().unwrap();
    write(home.path().join("auth.json"), r#"{"credsStore": "test"}"#);
    let run = |path: Option<&str>| {
        let mut command = mirror(home.path());
        command.env("REGISTRY_AUTH_FILE", "auth.json").args(["logout", "reg.low"]);
        command.env("PATH", path.unwrap_or("/nowhere"));
        command.assert().code(1)
    };
    run(None).stderr(contains("docker-credential-test for reg.low: the program is not in $PATH"));
    let path = install_helper(home.path(), "#!/bin/sh\necho 'keychain is locked'; exit 3\n");
    run(Some(&path)).stderr(contains("docker-credential-test for reg.low: keychain is locked (exit status: 3)"));
}

#[test]
fn the_sample_is_a_configuration_that_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let sample = mirror(home.path()).args(["config", "--sample"]).assert().success().get_output().stdout.clone();
    let before = mirror(home.path()).args(["config", "show"]).assert().success().get_output().stdout.clone();
    std::fs::write(home.path().join("mirror.yaml"), sample).unwrap();
    let after = mirror(home.path()).args(["config", "show"]).assert().success().stderr(is_empty());
    let after = String::from_utf8(after.get_output().stdout.clone()).unwrap();
    assert_eq!(after.replace("config: mirror.yaml", "config: null"), String::from_utf8(before).unwrap());
    mirror(home.path()).arg("config").assert().code(2);
}

#[test]
fn show_says_where_each_value_came_from_and_no_secret() {
    let home = tempfile::tempdir().unwrap();
    write(
        home.path().join("m.yaml"),
        "concurrentHTTP: 7\nregistryAuthFile: auth.json\nregistryConfig:\n  reg.low:\n    endpoints: [http://a.low]\n",
    );
    let auth = r#"{"auths": {"reg.low": {"auth": "dTpnZWhlaW0="}, "t.low": {"identitytoken": "geheim"}}, "credHelpers": {"gcr.io": "gcloud"}}"#;
    write(home.path().join("auth.json"), auth);
    let show = |arguments: &[&str]| {
        let mut command = mirror(home.path());
        command.env("MIRROR_CONFIG", "m.yaml").env("HTTPS_PROXY", "http://u:geheim@proxy.low:3128");
        let output = command.args(["config", "show"]).args(arguments).assert().success().get_output().stdout.clone();
        let text = String::from_utf8(output).unwrap();
        assert!(!text.contains("geheim") && !text.contains("Z2VoZWlt"), "{text}");
        text
    };
    let text = show(&[]);
    for line in [
        "config: m.yaml  # $MIRROR_CONFIG",
        "byteBudget: 67108864  # default",
        "concurrentHTTP: 7  # m.yaml:1",
        "registryConfig.registries.reg.low.endpoints: [http://a.low/]  # m.yaml:5",
        "credentials.reg.low: {password: ***, user: u}  # auth.json",
        "credentials.t.low: {identityToken: ***}  # auth.json",
        "credentials.gcr.io: docker-credential-gcloud  # auth.json",
        "HTTPS_PROXY: http://u:***@proxy.low:3128  # $HTTPS_PROXY",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let text = show(&["--jobs", "3"]);
    assert!(text.contains("jobs: 3  # --jobs") && !text.contains("concurrentHTTP"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&show(&["--output", "json"])).unwrap();
    assert_eq!(json["schema"], "mirror/config/v1");
    let jobs = json["settings"].as_array().unwrap().iter().find(|s| s["key"] == "concurrentHTTP").unwrap();
    assert_eq!(
        *jobs,
        serde_json::json!({"key": "concurrentHTTP", "value": 7, "origin": {"kind": "file", "file": "m.yaml", "line": 1}})
    );
}

/// The program with `home/etc` as its `/etc`, in name spaces of its own. `None`, said aloud, where there may be none.
fn with_etc(home: &Path) -> Option<Command> {
    const UNSHARE: [&str; 3] = ["--map-root-user", "--mount", "--"];
    let trial =
        std::process::Command::new("unshare").args(UNSHARE).arg("mount").args(["--bind", "/tmp", "/etc"]).output();
    if !trial.as_ref().is_ok_and(|output| output.status.success()) {
        // Past the test harness, which swallows what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "\n*** SKIPPED the files under /etc: no name space can be made to put others in their place: {trial:?}"
        );
        return None;
    }
    let program = mirror(home);
    let mut command = Command::new("unshare");
    command.args(UNSHARE).args(["sh", "-c", "mount --bind etc /etc && exec \"$@\"", "sh"]).arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(home);
    Some(command)
}

#[test]
fn the_files_of_the_system_count_where_the_users_are_not() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    std::fs::create_dir(at("etc")).unwrap();
    let show = || {
        let output = with_etc(home.path())?.args(["config", "show", "--output", "json"]).assert().success();
        let json: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        let settings = json["settings"].as_array().unwrap().clone();
        // The file of each key, where it has one.
        let file = move |key: &str| {
            let setting = settings.iter().find(|setting| setting["key"] == key)?;
            setting["origin"]["file"].as_str().map(str::to_owned)
        };
        Some(Box::new(file) as Box<dyn Fn(&str) -> Option<String>>)
    };
    let table = |prefix: &str| format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"reg.low\"\n");
    write(at("etc/mirror/config.yaml"), "concurrentHTTP: 7\n");
    write(at("etc/containers/registries.conf"), &table("system.low"));
    write(at("etc/containers/registries.conf.d/a.conf"), &table("drop-in.low"));
    for host in ["both.low", "containers.low"] {
        write(at("etc/containers/certs.d").join(host).join("ca.crt"), "");
    }
    for host in ["both.low", "docker.low"] {
        write(at("etc/docker/certs.d").join(host).join("ca.crt"), "");
    }
    let keys = [
        "concurrentHTTP",
        "registries.conf.system.low.location",
        "registries.conf.drop-in.low.location",
        "certs.d.both.low",
        "certs.d.containers.low",
        "certs.d.docker.low",
    ];
    let Some(file) = show() else { return };
    let files = keys.map(|key| file(key).unwrap_or_default());
    assert_eq!(
        files,
        [
            "/etc/mirror/config.yaml",
            "/etc/containers/registries.conf",
            "/etc/containers/registries.conf.d/a.conf",
            "/etc/containers/certs.d/both.low",
            "/etc/containers/certs.d/containers.low",
            "/etc/docker/certs.d/docker.low",
        ]
    );

    // The user's own take their place; the drop-in files of the system go with its file.
    write(at(".config/mirror/config.yaml"), "concurrentHTTP: 8\n");
    write(at(".config/containers/registries.conf"), &table("user.low"));
    write(at(".config/containers/certs.d/both.low/ca.crt"), "");
    let Some(file) = show() else { return };
    let files = keys.map(|key| file(key).unwrap_or_default());
    let users = |name: &str| at(".config").join(name).display().to_string();
    assert_eq!(
        files,
        [
            &users("mirror/config.yaml"),
            "",
            "",
            &users("containers/certs.d/both.low"),
            "/etc/containers/certs.d/containers.low",
            "/etc/docker/certs.d/docker.low",
        ]
    );
    assert_eq!(file("registries.conf.user.low.location"), Some(users("containers/registries.conf")));

    // A file that is named takes the place of both, with the drop-in files of the system.
    write(at("named.conf"), &table("named.low"));
    let Some(mut command) = with_etc(home.path()) else { return };
    let shown = command.env("CONTAINERS_REGISTRIES_CONF", at("named.conf")).args(["config", "show"]).assert().success();
    shown.stdout(contains("named.low").and(contains("drop-in.low")).and(contains("user.low").not()));
}
