//! From one docker-registry to another in pieces: differential archives, a run that is gone on with, and batches.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::programs::{are_here, mirror, output, run, work_directory};
use crate::registries::Registry;

fn report(work: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(mirror(work).args(["--output", "json"]).args(arguments))).expect("a report")
}

/// Two docker-registries, and `one` and `all` in the repository `gather` of the first: some of the corpus, and all of it.
struct Road {
    _low: Registry,
    high: Registry,
    gathers: [String; 2],
    // Goes after the registries that work in it.
    work: TempDir,
}

impl Road {
    /// `None` where a program for it is missing.
    fn new() -> Option<Road> {
        if !are_here(&["docker-registry", "python3"]) {
            return None;
        }
        let directory = work_directory();
        let work = directory.path();
        let (low, high) = (Registry::docker(work, "low"), Registry::docker(work, "high"));
        let loaded = low.load(work, "tiny", "from/");
        let names = fs::read_to_string(&loaded.sources).expect("the loader wrote a list");
        let names: Vec<&str> = names.lines().collect();
        let gathers = ["one", "all"].map(|tag| format!("{}/gather:{tag}", low.address));
        for (gather, names) in gathers.iter().zip([&names[..names.len() / 2], &names]) {
            fs::write(work.join("some.list"), names.join("\n")).expect("it can be written");
            report(work, &["gather", "some.list", gather, "-r"]);
        }
        Some(Road { _low: low, high, gathers, work: directory })
    }
}

#[test]
fn differential_archives_go_from_one_docker_registry_to_another() {
    let Some(road) = Road::new() else { return };
    let (work, high, [one, all]) = (road.work.path(), &road.high, &road.gathers);
    report(work, &["serialize", "-r", one, "one.tar", "--checkpoint", "one.ledger"]);
    let plan = report(work, &["serialize", "-r", all, "all.tar", one, "--dry-run"]);
    assert!(!work.join("all.tar").exists());
    let rest = report(work, &["serialize", "-r", all, "all.tar", one]);
    let written = fs::metadata(work.join("all.tar")).expect("it is there").len();
    assert_eq!((plan["bytes"].as_u64(), rest["bytes"].as_u64()), (Some(written), Some(written)));
    assert!(rest["blobsSkipped"].as_u64() > Some(0), "{rest}");
    // By the ledger of the first archive the same is left out.
    let offset = fs::metadata(work.join("one.tar")).expect("it is there").len();
    let ledger = format!("one.ledger:{offset}");
    report(work, &["serialize", "-r", all, "by-ledger.tar", "--existing-from-checkpoint", &ledger]);
    assert!(fs::metadata(work.join("by-ledger.tar")).expect("it is there").len() <= written);

    // What a run that died has left is gone on with.
    let whole = fs::read(work.join("one.tar")).expect("it is there");
    fs::write(work.join("again.tar.partial"), &whole[..whole.len() * 2 / 3]).expect("it can be written");
    report(work, &["serialize", "-r", one, "again.tar", "--resume"]);
    assert!(fs::read(work.join("again.tar")).expect("it is there") == whole);

    let there = format!("{}/scatter:all", high.address);
    let refused = output(mirror(work).args(["deserialize", "all.tar", &there]));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && error.contains("missing there"), "{error}");
    let (_, catalog) = high.get("/v2/_catalog");
    assert_eq!(String::from_utf8_lossy(&catalog).trim(), r#"{"repositories":[]}"#, "nothing was pushed");
    report(work, &["deserialize", "one.tar", &format!("{}/scatter:one", high.address)]);
    report(work, &["deserialize", "all.tar", &there]);
    assert_eq!(report(work, &["verify", "-r", all, "--against", &there])["against"]["absent"], 0);
    let again = report(work, &["deserialize", "all.tar", &there]);
    assert_eq!((&again["moved"]["blobsSent"], &again["moved"]["manifestsSent"]), (&0.into(), &0.into()));
}

#[test]
fn batches_go_from_one_docker_registry_to_another() {
    let Some(road) = Road::new() else { return };
    let (work, high, [one, all]) = (road.work.path(), &road.high, &road.gathers);
    let there = format!("{}/scatter", high.address);
    let mut states = Vec::new();
    for rows in [format!("part-1,{one}\n"), format!("part-1,{one}\nall.2,{all}\n")] {
        fs::write(work.join("batch.csv"), format!("name,artifact\n{rows}")).expect("it can be written");
        for verb in [["batch-serialize", "batch.csv", "sync"], ["batch-deserialize", "sync", &there]] {
            let told = report(work, &verb);
            let archives = told["archives"].as_array().expect("it lists archives").clone();
            states
                .push(archives.iter().map(|a| a["state"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>());
        }
    }
    assert_eq!(states, [vec!["done"], vec!["done"], vec!["unchanged", "done"], vec!["unchanged", "done"]]);
    let sizes: Vec<u64> = ["sync/000001-part-1.tar", "sync/000002-all.2.tar"]
        .map(|file| fs::metadata(work.join(file)).expect("it is there").len())
        .into();
    report(work, &["serialize", all, "whole.tar"]);
    let whole = fs::metadata(work.join("whole.tar")).expect("it is there").len();
    assert!(sizes[1] < whole, "what the first has does not travel again: {sizes:?}, {whole}");
    assert_eq!(report(work, &["verify", all, "--against", &format!("{there}:all.2")])["against"]["absent"], 0);
}
