//! Other people's clients: skopeo and the corpus loader. A missing one is said, and the test passed
//! over, unless `MIRROR_REQUIRE_PEERS` is set as CI does.

use std::process::Command;

use crate::registry::Registry;

/// The program, if it is on this machine.
fn peer(program: &str) -> Option<Command> {
    if Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success()) {
        return Some(Command::new(program));
    }
    assert!(std::env::var_os("MIRROR_REQUIRE_PEERS").is_none(), "{program} is not installed");
    eprintln!("skipped: {program} is not installed");
    None
}

async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_lists_and_deletes() {
    let r = Registry::new().await;
    let (_, digest) = r.push_image("from/here", "v1", "content of a layer").await;
    let host = r.base.strip_prefix("http://").unwrap();
    let skopeo = |arguments: &[&str]| {
        let mut command = peer("skopeo")?;
        command.arg("--insecure-policy").args(arguments);
        Some(command)
    };
    let (from, to) = (format!("docker://{host}/from/here:v1"), format!("docker://{host}/to/there:v2"));
    let layout = format!("oci:{}:x:y", r.directory.path().join("skopeo").display());
    let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    for (source, destination) in [(&from, &to), (&from, &layout), (&layout, &from)] {
        let Some(command) = skopeo(&["copy", "--preserve-digests", "--all", tls[0], tls[1], source, destination])
        else {
            return;
        };
        run(command).await;
    }
    for image in [&from, &to] {
        let Some(command) = skopeo(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", image]) else {
            return;
        };
        assert_eq!(run(command).await.trim(), digest.to_string());
    }
    let Some(command) = skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{host}/to/there")]) else {
        return;
    };
    assert!(run(command).await.contains("\"v2\""));
    let Some(command) = skopeo(&["delete", "--tls-verify=false", &to]) else { return };
    run(command).await;
    assert!(r.tags("to/there").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_corpus_goes_in_edge_cases_too_and_comes_back() {
    let r = Registry::new().await;
    let corpus = r.directory.path().join("corpus");
    let script = |name: &str| {
        let mut command = peer("python3")?;
        command.arg(format!("{}/scripts/corpus/{name}", env!("CARGO_MANIFEST_DIR")));
        Some(command)
    };
    let Some(mut make) = script("make_corpus.py") else { return };
    make.args(["--profile", "tiny", "--out"]).arg(&corpus);
    run(make).await;
    let Some(mut load) = script("load_corpus.py") else { return };
    load.arg(&corpus).args([&r.base, "--verify"]);
    let said = run(load).await;
    assert!(said.contains("refused 0") && said.contains("referrers fallback tags 0"), "{said}");
    assert!(said.contains("blobs mounted 47"), "{said}");
}
