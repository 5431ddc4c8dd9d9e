//! Every command that writes or reads an archive, with an object of S3 for it; what only looks, or takes a part, reads a
//! part.

use crate::home::Home;
use crate::store::{Store, ended};

/// Bytes of the largest layer of each image.
const LARGE: usize = 3_000_000;

/// Two images, and lists of both and of one.
async fn home() -> Home {
    let home = Home::empty();
    for (name, seed) in [("a", 1), ("b", 2)] {
        home.add_image(name, seed, &[700, LARGE, 9_000]).await;
    }
    home.write("sources.list", "oci:low:a\noci:low:b\n");
    home.write("subset.list", "oci:low:b\n");
    home.write("dest.csv", "oci:,oci:high/\n");
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_an_archive_wherever_one_is_named() {
    let Some(store) = Store::new("commands") else { return };
    let home = home().await;
    let url = store.url("sync.tar");
    home.mirror(&["archive", "sources.list", "sync.tar", "sync"]).says(0, &[]);
    store.mirror(&home, &["archive", "sources.list", &url, "sync"]).says(0, &[]);
    let archive = home.read("sync.tar");
    assert!(store.object("sync.tar").is_some_and(|object| object == archive));
    assert!(store.object("sync.tar.commit.json").is_some());
    store.mirror(&home, &["archive", "sources.list", &url, "sync"]).says(1, &["exists", "--force"]);

    let same = |arguments: &[&str], limit: usize| {
        store.answered();
        let of_object = store.mirror(&home, arguments);
        of_object.says(0, &[]);
        let read = store.answered();
        assert!(read < limit as u64, "{arguments:?} read {read} bytes");
        let arguments: Vec<&str> = arguments.iter().map(|a| if *a == url { "sync.tar" } else { a }).collect();
        let of_file = home.mirror(&arguments);
        of_file.says(0, &[]);
        assert_eq!(of_object.stdout.replace(&url, "sync.tar"), of_file.stdout, "{arguments:?}");
    };
    same(&["inspect", &url], LARGE / 2);
    same(&["diff", &url, "oci:low:a"], LARGE / 2);
    same(&["diff", "oci:low:a", &url], LARGE / 2);
    same(&["verify", &url], 3 * LARGE);
    same(&["unarchive", &url, "all-prefix=dest.csv", "--check"], LARGE / 2);
    store.answered();
    store.mirror(&home, &["unarchive", &url, "all-prefix=dest.csv", "--subset", "subset.list"]).says(0, &[]);
    let read = store.answered();
    assert!(read > LARGE as u64 && read < LARGE as u64 * 3 / 2, "{read}");
    store.mirror(&home, &["unarchive", &url, "all-prefix=dest.csv"]).says(0, &[]);

    // What is there need not travel; the store is that of the flags for both.
    let (rest, endpoint) = (store.url("rest.tar"), format!("http://127.0.0.1:{}", store.port));
    let arguments = ["serialize", "oci:low:a", &rest, &url, "--s3-endpoint", &endpoint, "--output", "json"];
    let mut command = store.command(&home, &arguments);
    command.env_remove("AWS_ENDPOINT_URL");
    let differential = ended(command);
    differential.says(0, &[]);
    assert!(store.object("rest.tar").is_some_and(|object| object.len() < LARGE / 2), "{}", differential.stdout);
    // Packed, it is read in order.
    let packed = store.url("sync.tar.gz");
    store.mirror(&home, &["archive", "sources.list", &packed, "sync", "--compression", "gzip"]).says(0, &[]);
    home.write("dest.csv", "oci:,oci:higher/\n");
    store.mirror(&home, &["unarchive", &packed, "all-prefix=dest.csv"]).says(0, &[]);
    store.mirror(&home, &["inspect", &packed]).says(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_no_object() {
    let home = Home::new().await;
    home.write("batch.csv", "a,oci:low:a\n");
    for arguments in [["batch-serialize", "batch.csv", "s3://b/dir"], ["batch-deserialize", "s3://b/dir", "oci:high"]] {
        home.mirror(&arguments).says(2, &["s3://b/dir", "a directory on a disk is needed"]);
    }
    assert!(!home.path("s3:").exists());
}
