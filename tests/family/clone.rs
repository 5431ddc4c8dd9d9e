//! `clone` brings every image of a list to its destinations with each blob once, pushes nothing when
//! something cannot be right, and lists what failed so that the list can be cloned again.

use super::program::{Registry, mirror, unpack_samples};
use super::run::{IMAGES, digests, is_empty, run, whole, write_list};

#[test]
fn from_registry_to_registries_and_a_second_time_nothing_moves() {
    let home = unpack_samples("images");
    let home = home.path();
    let (low, high, other) =
        (Registry::start(home, "images"), Registry::start(home, "high"), Registry::start(home, "other"));
    assert_eq!(other.ready["directory"], "other");
    let (low, high, other) = (&low.address, &high.address, &other.address);
    write_list(home, "sources.list", &format!("{low}/"), &IMAGES);
    std::fs::write(home.join("dest.csv"), format!("{low}/,{high}/a/\n{low}/,{high}/b/\n{low}/edge/,{other}/\n"))
        .unwrap();
    let check = run(home, &["clone", "sources.list", "all-prefix=dest.csv", "--check", "-r"], 0);
    assert_eq!((&check["checkedOnly"], check["moved"]["manifestsSent"].as_u64()), (&true.into(), Some(0)));
    assert!(is_empty(&home.join("high")));

    let cloned = run(home, &["clone", "sources.list", "all-prefix=dest.csv", "-r"], 0);
    assert_eq!((&cloned["schema"], &cloned["images"]), (&"mirror/clone/v1".into(), &check["images"]));
    let before = digests(home, "sources.list", &format!("{low}/"));
    for prefix in [format!("{high}/a/"), format!("{high}/b/")] {
        write_list(home, "arrived.list", &prefix, &IMAGES);
        assert_eq!(digests(home, "arrived.list", &prefix), before);
        whole(home, "arrived.list");
    }
    // A registry gets each blob once; its other repositories mount it.
    let whole_size = run(home, &["gather", "-r", "sources.list", "oci:all:sync"], 0)["moved"]["bytesSent"].clone();
    let sent = cloned["moved"]["bytesSent"].as_u64().unwrap();
    assert!(sent <= 2 * whole_size.as_u64().unwrap(), "{cloned} {whole_size}");
    assert!(cloned["moved"]["blobsMounted"].as_u64() > Some(0), "{cloned}");

    let again = run(home, &["clone", "sources.list", "all-prefix=dest.csv", "-r"], 0);
    assert_eq!((&again["moved"]["blobsSent"], &again["moved"]["blobsMounted"]), (&0.into(), &0.into()), "{again}");
}

#[test]
fn within_a_registry_no_byte_moves() {
    let home = unpack_samples("images");
    let home = home.path();
    let low = Registry::start(home, "images");
    let low = &low.address;
    write_list(home, "sources.list", &format!("{low}/"), &IMAGES);
    std::fs::write(home.join("dest.csv"), format!("{low}/,{low}/copy/\n")).unwrap();
    let cloned = run(home, &["clone", "sources.list", "first-prefix=dest.csv"], 0);
    assert_eq!(cloned["moved"]["bytesSent"], 0, "{cloned}");
    write_list(home, "arrived.list", &format!("{low}/copy/"), &IMAGES);
    whole(home, "arrived.list");
}

#[test]
fn between_layouts_with_labels_and_platforms() {
    let home = unpack_samples("images");
    let home = home.path();
    std::fs::write(
        home.join("sources.list"),
        "oci:images:edge/signed:v1, team=red\noci:images:team-0/app-000:v1.0, team=blue\noci:images:edge/plain:v1\n",
    )
    .unwrap();
    // A template sees the labels and the platform that a gather would have given it.
    let template = "oci:out:{{ index .Annotations \"data.act3-ace.io/labels\" | len }}-{{ .Platform.Architecture }}";
    std::fs::write(home.join("rules.tmpl"), template).unwrap();
    let arguments = ["clone", "sources.list", "go-template=rules.tmpl", "-l", "team=blue", "-p", "linux/arm64"];
    let cloned = run(home, &arguments, 0);
    let images = cloned["images"].as_array().unwrap();
    assert_eq!((images.len(), &images[0]["destinations"][0]), (1, &"oci:out:15-arm64".into()), "{cloned}");

    let error = run(home, &["clone", "sources.list", "nest=oci:out", "-l", "team=green"], 1);
    assert!(error["error"].as_str().unwrap().contains("no source has labels"), "{error}");
}

#[test]
fn two_images_for_one_destination_are_refused_before_the_first_push() {
    let home = unpack_samples("images");
    let home = home.path();
    write_list(home, "sources.list", "oci:images:", &IMAGES);
    std::fs::write(home.join("rules.tmpl"), "oci:out:same").unwrap();
    let error = run(home, &["clone", "sources.list", "go-template=rules.tmpl", "--continue-on-error"], 1);
    assert!(error["error"].as_str().unwrap().contains("two images for oci:out:same"), "{error}");
    assert!(!home.join("out").exists());
}

#[test]
fn what_failed_is_a_list_to_clone_again() {
    let home = unpack_samples("images");
    let home = home.path();
    let list = "oci:images:edge/plain:v1\noci:late:edge/signed:v1, team=red # not there yet\n";
    std::fs::write(home.join("sources.list"), list).unwrap();
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:out:\noci:late:,oci:out:\n").unwrap();

    // Without leave to go on, nothing is pushed.
    let stopped = run(home, &["clone", "sources.list", "all-prefix=dest.csv"], 1);
    assert_eq!((stopped["images"].as_array().unwrap().len(), &stopped["failures"][0]["line"]), (0, &2.into()));
    assert!(!home.join("out").exists() && !home.join("sources.list.failed").exists());

    let went_on = run(home, &["clone", "sources.list", "all-prefix=dest.csv", "--continue-on-error"], 3);
    assert_eq!(went_on["images"][0]["destinations"][0], "oci:out:edge/plain:v1");
    assert_eq!(went_on["failedList"], "sources.list.failed");
    let failed = std::fs::read_to_string(home.join("sources.list.failed")).unwrap();
    assert!(failed.ends_with("\noci:late:edge/signed:v1, team=red\n"), "{failed}");

    // Nothing at all that could be had is a failure.
    let again = ["clone", "sources.list.failed", "all-prefix=dest.csv", "--continue-on-error", "--failed", "left.list"];
    run(home, &again, 1);
    std::fs::rename(home.join("images"), home.join("late")).unwrap();
    let done = run(home, &again, 0);
    assert_eq!(done["images"][0]["destinations"][0], "oci:out:edge/signed:v1");
    assert!(!home.join("left.list").exists(), "a list of nothing is removed");

    // Where no list can be written, nothing is done that could fail.
    std::fs::remove_dir_all(home.join("out")).unwrap();
    let lost = ["clone", "sources.list", "all-prefix=dest.csv", "--continue-on-error", "--failed", "no/such.list"];
    assert!(run(home, &lost, 1)["error"].as_str().unwrap().contains("no/such.list"));
    assert!(!home.join("out").exists());

    // A file of something else is not replaced.
    let refused = run(home, &["clone", "sources.list", "all-prefix=dest.csv", "--failed", "dest.csv"], 1);
    assert!(refused["error"].as_str().unwrap().contains("--failed"), "{refused}");
    assert!(std::fs::read_to_string(home.join("dest.csv")).unwrap().starts_with("oci:images:"));
}

#[test]
fn a_destination_that_is_gone_fails_only_its_own_images() {
    let home = unpack_samples("images");
    let home = home.path();
    let mut gone = Registry::start(home, "gone");
    gone.stop();
    write_list(home, "sources.list", "oci:images:", &["edge/plain:v1", "edge/signed:v1"]);
    let rules = format!("oci:images:edge/plain,oci:out:plain\noci:images:edge/signed,{}/signed\n", gone.address);
    std::fs::write(home.join("dest.csv"), rules).unwrap();
    let output = mirror(home)
        .args(["clone", "sources.list", "all-prefix=dest.csv", "--continue-on-error"])
        .assert()
        .code(3)
        .get_output()
        .clone();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.starts_with("cloned 1 image to 1 destination\n"), "{out}");
    assert!(out.contains("next: mirror clone sources.list.failed all-prefix=dest.csv"), "{out}");
    assert!(err.contains("sources.list:2: ") && err.contains(&gone.address), "{err}");
}
