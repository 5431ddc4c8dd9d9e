//! registries.conf, rewritePull, proxies and limits through the program: where images are read, and what is refused.

#[path = "support/low.rs"]
mod low;

use std::net::SocketAddr;
use std::path::Path;

use airgap_mirror::serve::{self, Server};
use assert_cmd::Command;
use assert_cmd::assert::Assert;
use low::low_layout;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

/// The sample images in a registry that only answers, and an empty one.
struct Place {
    home: TempDir,
    full: SocketAddr,
    empty: SocketAddr,
    _servers: [Server; 2],
}

impl Place {
    async fn new() -> Place {
        let home = low_layout();
        let serve = async |name: &str, read_only| {
            let listen = "127.0.0.1:0".parse().unwrap();
            let directory = home.path().join(name);
            serve::spawn(serve::Options { read_only, ..serve::Options::new(directory, listen) }).await.unwrap()
        };
        let servers = [serve("low", true).await, serve("empty", false).await];
        let [full, empty] = [servers[0].address(), servers[1].address()];
        Place { home, full, empty, _servers: servers }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("FULL", &self.full.to_string()).replace("EMPTY", &self.empty.to_string()))
            .unwrap();
    }

    fn conf(&self, text: &str) {
        self.write(".config/containers/registries.conf", text);
    }

    /// Runs the program with nothing but this home.
    async fn mirror(&self, arguments: &[&str]) -> Assert {
        let (home, full, empty) = (self.home.path().to_owned(), self.full.to_string(), self.empty.to_string());
        let arguments: Vec<String> =
            arguments.iter().map(|a| a.replace("FULL", &full).replace("EMPTY", &empty)).collect();
        tokio::task::spawn_blocking(move || command(&home).args(arguments).assert()).await.unwrap()
    }

    async fn gather(&self, source: &str) -> Assert {
        self.write("sources.list", &format!("{source}\n"));
        self.mirror(&["gather", "sources.list", "oci:gathered:sync"]).await
    }
}

/// Runs a gather of one image with those variables.
async fn gather_with(place: &Place, source: &str, variables: &[(&'static str, String)]) -> Assert {
    place.write("sources.list", &format!("{source}\n"));
    let mut command = command(place.home.path());
    command.args(["gather", "sources.list", "oci:gathered:sync"]).envs(variables.iter().cloned());
    tokio::task::spawn_blocking(move || command.assert()).await.unwrap()
}

fn command(home: &Path) -> Command {
    let mut command = Command::cargo_bin("mirror").unwrap();
    command.current_dir(home).env("HOME", home).env("MIRROR_SILENCE_TIMEOUT", "1");
    for variable in
        ["MIRROR_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "CONTAINERS_REGISTRIES_CONF"]
    {
        command.env_remove(variable);
    }
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(variable).env_remove(variable.to_lowercase());
    }
    command
}

/// An image of the sample.
const APP: &str = "edge/signed:v1";

#[tokio::test(flavor = "multi_thread")]
async fn images_are_read_from_the_first_mirror_that_has_them() {
    let place = Place::new().await;
    place.conf(
        "unqualified-search-registries = [\"docker.io\"]\n\
         [[registry]]\nprefix = \"reg.invalid/team\"\nlocation = \"127.0.0.1:1/nowhere\"\n\
         [[registry.mirror]]\nlocation = \"EMPTY/team\"\n[[registry.mirror]]\nlocation = \"FULL/edge\"\n",
    );
    place.gather("reg.invalid/team/signed:v1").await.success();
    // Only that prefix is led elsewhere.
    place.gather("reg.invalid/other/signed:v1").await.code(1).stderr(contains("reg.invalid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn location_stands_in_for_the_prefix_and_the_longest_prefix_counts() {
    let place = Place::new().await;
    place.conf(
        "[[registry]]\nprefix = \"*.reg.invalid\"\nlocation = \"EMPTY\"\n\
         [[registry]]\nprefix = \"a.reg.invalid/x\"\nlocation = \"FULL\"\n",
    );
    place.gather(&format!("a.reg.invalid/x/{APP}")).await.success();
    place
        .gather(&format!("a.reg.invalid/y/{APP}"))
        .await
        .code(1)
        .stderr(contains("not in a.reg.invalid/y/edge/signed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_may_be_for_digests_or_for_tags_only() {
    let place = Place::new().await;
    let conf = |keys: &str| {
        place.conf(&format!("[[registry]]\nprefix = \"reg.invalid\"\nlocation = \"EMPTY\"\n{keys}\n"));
    };
    let mirror = "[[registry.mirror]]\nlocation = \"FULL\"\n";
    let index = std::fs::read_to_string(place.home.path().join("low/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let named = |m: &&serde_json::Value| m["annotations"]["org.opencontainers.image.ref.name"] == APP;
    let digest =
        index["manifests"].as_array().unwrap().iter().find(named).unwrap()["digest"].as_str().unwrap().to_owned();
    let (by_tag, by_digest) = (format!("reg.invalid/{APP}"), format!("reg.invalid/edge/signed@{digest}"));
    for keys in
        [format!("mirror-by-digest-only = true\n{mirror}"), format!("{mirror}pull-from-mirror = \"digest-only\"")]
    {
        conf(&keys);
        place.gather(&by_digest).await.success();
        place.gather(&by_tag).await.code(1);
    }
    conf(&format!("{mirror}pull-from-mirror = \"tag-only\""));
    place.gather(&by_tag).await.success();
    place.gather(&by_digest).await.code(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_goes_where_its_name_says_though_a_mirror_has_it() {
    let place = Place::new().await;
    place.conf("[[registry]]\nlocation = \"EMPTY\"\n[[registry.mirror]]\nlocation = \"FULL\"\n");
    place.write("sources.list", &format!("FULL/{APP}\n"));
    place.mirror(&["gather", "sources.list", "EMPTY/edge/signed:v1"]).await.success();
    place.conf("");
    place.mirror(&["serialize", "EMPTY/edge/signed:v1", "out.tar"]).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_registry_is_neither_read_nor_written_unless_our_own_file_has_it() {
    let place = Place::new().await;
    place.conf("# ours\n[[registry]]\nlocation = \"FULL\"\nblocked = true\n\n[[registry]]\nlocation = \"EMPTY\"\nblocked = true\n");
    let at = |line: u32| contains(format!(".config/containers/registries.conf:{line}")).and(contains("is blocked by"));
    place.gather(&format!("FULL/{APP}")).await.code(1).stderr(at(2));
    place.mirror(&["gather", "sources.list", "EMPTY/x:y"]).await.code(1).stderr(at(6).and(contains("hint: ")));
    place.write("mirror.yaml", "registryConfig:\n  FULL:\n    endpoints: [\"http://FULL\"]\n");
    place.gather(&format!("FULL/{APP}")).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_in_files_come_later_in_the_order_of_their_names() {
    let place = Place::new().await;
    let table = |location: &str| format!("[[registry]]\nprefix = \"reg.invalid\"\nlocation = \"{location}\"\n");
    place.conf(&table("127.0.0.1:1"));
    place.write(".config/containers/registries.conf.d/20-b.conf", &table("FULL"));
    place.write(".config/containers/registries.conf.d/10-a.conf", &table("EMPTY"));
    place.write(".config/containers/registries.conf.d/30-c.conf.bak", &table("EMPTY"));
    place.gather(&format!("reg.invalid/{APP}")).await.success();
    let show = place.mirror(&["config", "show"]).await.success();
    show.stdout(contains(format!("registries.conf.reg.invalid.location: {}", place.full)).and(contains("20-b.conf:1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_obeyed_is_an_error_with_its_line() {
    let place = Place::new().await;
    for (text, said) in [
        ("[[registry]]\nlocation = 5\n", "registries.conf:2: "),
        ("[[registry]\n", "registries.conf:1: "),
        ("\n[[registry]]\nprefix = \"a.low\"\n", "registries.conf:2: registry: prefix \"a.low\" needs a location"),
        (
            "[[registry]]\nlocation = \"http://a.low\"\n",
            "registries.conf:1: prefix: \"http://a.low\": write a host without",
        ),
        ("[[registry]]\nlocation = \"a.low/b:tag\"\n", "a tag or digest is not supported"),
        ("[[registry]]\nprefix = \"*.a.low/b\"\nlocation = \"a\"\n", "after *. comes a domain"),
        (
            "[[registry]]\nlocation = \"a.low\"\nmirror-by-digest-only = true\n\n[[registry.mirror]]\nlocation = \"b.low\"\npull-from-mirror = \"tag-only\"\n",
            "registries.conf:5: mirror: pull-from-mirror and mirror-by-digest-only",
        ),
        (
            "[[registry]]\nlocation = \"a.low\"\n[[registry]]\nlocation = \"a.low\"\n",
            "registries.conf:3: registry: prefix \"a.low\" is there twice",
        ),
        ("[registries.block]\nregistries = [\"a\"]\n[[registry]]\nlocation = \"b\"\n", "cannot be mixed"),
    ] {
        place.conf(text);
        place.mirror(&["config", "show"]).await.code(2).stderr(contains(said));
    }
    place.conf("[registries.search]\nregistries = [\"docker.io\"]\n[registries.block]\nregistries = [\"FULL\"]\n");
    place.gather(&format!("FULL/{APP}")).await.code(1).stderr(contains("registries.conf:4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rewrite_pull_renames_what_is_read_by_the_first_pattern_that_fits() {
    let place = Place::new().await;
    place.write(
        "mirror.yaml",
        "registryConfig:\n  reg.invalid:\n    endpoints: [\"http://FULL\"]\n    rewritePull:\n      \"^team/(.*)$\": edge/$1\n      \"^t.*\": wrong\n      \"^bad/.*\": UPPER\n",
    );
    place.gather("reg.invalid/team/signed:v1").await.success();
    place.gather("reg.invalid/signed:v1").await.code(1).stderr(contains("not in reg.invalid/signed"));
    let said = contains("rewritePull of reg.invalid makes \"UPPER\" of bad/signed");
    place.gather("reg.invalid/bad/signed:v1").await.code(1).stderr(said);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_reads_from_the_configured_places_as_well() {
    let place = Place::new().await;
    let reads = async |image: &str| {
        for arguments in [
            &["inspect", image][..],
            &["diff", image, image],
            &["verify", image],
            &["serialize", image, "out.tar", image, "--force"],
        ] {
            place.mirror(arguments).await.success();
        }
        place.write("batch.csv", &format!("name,{image}\n"));
        place.mirror(&["batch-serialize", "batch.csv", "batch", "--dry-run"]).await.success();
    };
    place.conf(
        "[[registry]]\nprefix = \"reg.invalid\"\nlocation = \"EMPTY\"\n[[registry.mirror]]\nlocation = \"FULL\"\n",
    );
    reads(&format!("reg.invalid/{APP}")).await;
    // What is to have arrived is looked for in the registry itself.
    let against = ["verify", "oci:low:edge/signed:v1", "--against", "reg.invalid/edge/signed:v1"];
    place.mirror(&against).await.code(1).stderr(contains("reg.invalid/edge/signed"));
    place.conf("");
    place.write(
        "mirror.yaml",
        "registryConfig:\n  reg.invalid:\n    endpoints: [\"http://FULL\"]\n    rewritePull:\n      \"^team/(.*)$\": edge/$1\n",
    );
    reads("reg.invalid/team/signed:v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_asked_for_names_it_knows_unless_no_proxy_has_them_or_they_are_this_machine() {
    let place = Place::new().await;
    place.write("mirror.yaml", "registryConfig:\n  reg.invalid:\n    endpoints: [\"http://reg.invalid\"]\n");
    let image = format!("reg.invalid/{APP}");
    // The registry takes requests for any name, as a proxy does.
    let proxy = ("HTTP_PROXY", format!("http://{}", place.full));
    gather_with(&place, &image, std::slice::from_ref(&proxy)).await.success();
    let without = ("NO_PROXY", "other.invalid,reg.invalid".into());
    gather_with(&place, &image, &[proxy, without]).await.code(1).stderr(contains("check the name reg.invalid"));
    let nowhere = ("HTTP_PROXY", "http://127.0.0.1:1".into());
    gather_with(&place, &format!("{}/{APP}", place.full), &[nowhere]).await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_slow_down_and_lose_nothing() {
    let place = Place::new().await;
    place.write(
        "mirror.yaml",
        "registryConfig:\n  FULL:\n    limits: {requestsPerSecond: 20, bytesPerSecond: 100KiB, connections: 1}\n",
    );
    let begun = std::time::Instant::now();
    place.gather(&format!("FULL/{APP}")).await.success();
    // More than ten requests, at one in 50 ms.
    assert!(begun.elapsed() >= std::time::Duration::from_millis(400), "{:?}", begun.elapsed());
}
