//! Workflow "discovery": tags, the catalogue, and referrers.

use airgap_mirror::image::{Digest, media_type};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::registry::{Registry, digest_of, header, image};

#[tokio::test]
async fn tags_are_listed_in_order_and_page_by_page() {
    let r = Registry::new().await;
    let (manifest, _) = r.push_image("a/b", "t0", "layer").await;
    for tag in ["t2", "t10", "B", "a"] {
        assert_eq!(r.send(r.put_manifest("a/b", tag, &manifest)).await.status(), StatusCode::CREATED);
    }
    assert_eq!(r.tags("a/b").await, ["B", "a", "t0", "t10", "t2"]);
    assert_eq!(r.json("/v2/a/b/tags/list").await["name"], "a/b");
    let (mut seen, mut path) = (Vec::new(), "/v2/a/b/tags/list?n=2".to_string());
    loop {
        let response = r.get(&path).await;
        let next = response.headers().get("link").map(|l| l.to_str().unwrap().to_owned());
        let page: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        seen.extend(page["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()));
        match next {
            None => break,
            Some(link) => path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned(),
        }
    }
    assert_eq!(seen, ["B", "a", "t0", "t10", "t2"]);
    let none = r.get("/v2/a/b/tags/list?n=0").await;
    assert!(none.headers().get("link").is_none());
    assert_eq!(serde_json::from_slice::<Value>(&none.bytes().await.unwrap()).unwrap()["tags"], json!([]));
    assert_eq!(r.json("/v2/a/b/tags/list?last=t1").await["tags"], json!(["t10", "t2"]));
    assert_eq!(r.get("/v2/a/b/tags/list?n=x").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_catalogue_lists_repositories_page_by_page() {
    let r = Registry::new().await;
    assert_eq!(r.json("/v2/_catalog").await["repositories"], json!([]));
    for repository in ["c", "a/b", "a"] {
        r.push_blob(repository, b"x").await;
    }
    assert_eq!(r.json("/v2/_catalog").await["repositories"], json!(["a", "a/b", "c"]));
    let response = r.get("/v2/_catalog?n=2").await;
    assert_eq!(header(&response, "link"), "</v2/_catalog?n=2&last=a%2Fb>; rel=\"next\"");
    assert_eq!(r.json("/v2/_catalog?n=2&last=a%2Fb").await["repositories"], json!(["c"]));
}

fn referrer(config: &Digest, subject: &Digest, artifact_type: Option<&str>) -> Value {
    let mut manifest = image(config, &[]);
    manifest["subject"] = json!({ "mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 2 });
    manifest["annotations"] = json!({ "note": artifact_type.unwrap_or("none") });
    if let Some(artifact_type) = artifact_type {
        manifest["artifactType"] = artifact_type.into();
    }
    manifest
}

#[tokio::test]
async fn referrers_are_listed_whether_or_not_their_subject_is_there() {
    let r = Registry::new().await;
    let config = r.push_blob("a", b"{}").await;
    let (_, present) = r.push_image("a", "v1", "layer").await;
    for subject in [present, Digest::sha256(b"absent")] {
        let path = format!("/v2/a/referrers/{subject}");
        let empty = r.get(&path).await;
        assert_eq!(header(&empty, "content-type"), media_type::OCI_INDEX);
        let empty: Value = serde_json::from_slice(&empty.bytes().await.unwrap()).unwrap();
        assert_eq!(empty, json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] }));
        let sbom = referrer(&config, &subject, Some("application/sbom"));
        let plain = referrer(&config, &subject, None);
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [],
            "artifactType": "application/bundle", "subject": sbom["subject"],
        });
        let expected = [(&sbom, "application/sbom"), (&plain, media_type::OCI_CONFIG), (&index, "application/bundle")];
        for (manifest, _) in expected {
            let digest = digest_of(manifest);
            let response = r.send(r.put_manifest("a", &digest.to_string(), manifest)).await;
            assert_eq!(response.status(), StatusCode::CREATED);
            assert_eq!(header(&response, "oci-subject"), subject.to_string());
        }
        let list = r.json(&path).await;
        assert_eq!(list["manifests"].as_array().unwrap().len(), 3);
        for (manifest, artifact_type) in expected {
            let digest = digest_of(manifest).to_string();
            let found = list["manifests"].as_array().unwrap().iter().find(|m| m["digest"] == digest).unwrap();
            assert_eq!(found["artifactType"], artifact_type);
            assert_eq!(found["mediaType"], manifest["mediaType"]);
            assert_eq!(found["size"], manifest.to_string().len());
            assert_eq!(found.get("annotations"), manifest.get("annotations"));
        }
        let filtered = r.get(&format!("{path}?artifactType=application%2Fsbom")).await;
        assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
        let filtered: Value = serde_json::from_slice(&filtered.bytes().await.unwrap()).unwrap();
        assert_eq!(filtered["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(filtered["manifests"][0]["digest"], digest_of(&sbom).to_string());
        assert_eq!(r.delete(&format!("/v2/a/manifests/{}", digest_of(&sbom))).await.status(), StatusCode::ACCEPTED);
        assert_eq!(r.json(&path).await["manifests"].as_array().unwrap().len(), 2);
    }
    // A 404 would say that the API is not there.
    assert_eq!(r.json(&format!("/v2/nowhere/referrers/{present}")).await["manifests"], json!([]));
}
