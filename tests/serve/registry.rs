//! A registry in a temporary directory, and a plain HTTP client for it.

use std::path::Path;

use airgap_mirror::image::{Algorithm, Digest, media_type};
use airgap_mirror::serve::{Limits, Options, Server, spawn};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

pub struct Registry {
    pub directory: tempfile::TempDir,
    pub base: String,
    pub server: Server,
    client: reqwest::Client,
}

pub fn options(directory: &Path) -> Options {
    let listen = ([127, 0, 0, 1], 0).into();
    Options { repository: Some("local".into()), ..Options::new(directory, listen) }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

impl Registry {
    pub async fn new() -> Registry {
        Self::open(tempfile::tempdir().unwrap(), false).await
    }

    pub async fn open(directory: tempfile::TempDir, read_only: bool) -> Registry {
        let options = Options { read_only, ..options(directory.path()) };
        Self::start(directory, options).await
    }

    pub async fn with_limits(limits: Limits) -> Registry {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { limits, ..options(directory.path()) };
        Self::start(directory, options).await
    }

    /// One that takes sparse manifests.
    pub async fn sparse() -> Registry {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { sparse: true, ..options(directory.path()) };
        Self::start(directory, options).await
    }

    async fn start(directory: tempfile::TempDir, options: Options) -> Registry {
        // A second test of this process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = spawn(options).await.unwrap();
        let base = format!("http://{}", server.address());
        Registry { directory, base, server, client: client() }
    }

    /// The same with a client that holds no connection yet.
    pub fn reconnected(self) -> Registry {
        Registry { client: client(), ..self }
    }

    /// Stops it and starts it anew on the same directory.
    pub async fn restart(self) -> Registry {
        self.server.shutdown().await.unwrap();
        Self::open(self.directory, false).await
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn head(&self, path: &str) -> Response {
        self.send(self.request(Method::HEAD, path)).await
    }

    pub async fn delete(&self, path: &str) -> Response {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str) -> Response {
        self.send(self.request(Method::POST, path).header("content-length", 0)).await
    }

    /// Every answer names the API's version.
    pub async fn send(&self, request: RequestBuilder) -> Response {
        let response = request.send().await.unwrap();
        assert_eq!(header(&response, "docker-distribution-api-version"), "registry/2.0");
        response
    }

    /// Begins an upload; gives its location.
    pub async fn begin(&self, repository: &str) -> String {
        let response = self.post(&format!("/v2/{repository}/blobs/uploads/")).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        header(&response, "location")
    }

    pub async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let location = self.begin(repository).await;
        let put = self.request(Method::PUT, &with_digest(&location, &digest)).body(content.to_vec());
        let response = self.send(put).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        digest
    }

    pub fn put_manifest(&self, repository: &str, reference: &str, manifest: &Value) -> RequestBuilder {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let put = self.request(Method::PUT, &format!("/v2/{repository}/manifests/{reference}"));
        put.header("content-type", media_type).body(manifest.to_string())
    }

    /// Pushes an image of one layer with its blobs; gives the manifest and its digest.
    pub async fn push_image(&self, repository: &str, tag: &str, content: &str) -> (Value, Digest) {
        let config = self.push_blob(repository, b"{}").await;
        let layer = self.push_blob(repository, content.as_bytes()).await;
        let manifest = image(&config, &[(layer, content.len())]);
        let response = self.send(self.put_manifest(repository, tag, &manifest)).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        let digest = digest_of(&manifest);
        assert_eq!(header(&response, "docker-content-digest"), digest.to_string());
        (manifest, digest)
    }

    pub async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    pub async fn tags(&self, repository: &str) -> Vec<String> {
        let list = self.json(&format!("/v2/{repository}/tags/list")).await;
        serde_json::from_value(list["tags"].clone()).unwrap()
    }
}

pub fn image(config: &Digest, layers: &[(Digest, usize)]) -> Value {
    let layer = |(digest, size): &(Digest, usize)| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size });
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": { "mediaType": media_type::OCI_CONFIG, "digest": config, "size": 2 },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

pub fn digest_of(manifest: &Value) -> Digest {
    Digest::sha256(manifest.to_string().as_bytes())
}

pub fn sha512(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha512, content)
}

/// A location with the digest that finishes the upload.
pub fn with_digest(location: &str, digest: &Digest) -> String {
    format!("{location}{}digest={digest}", if location.contains('?') { '&' } else { '?' })
}

pub fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name).unwrap_or_else(|| panic!("no {name} in {response:?}"));
    value.to_str().unwrap().to_owned()
}

/// Status and code of a refusal.
pub async fn refusal(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert!(!body["errors"][0]["message"].as_str().unwrap().is_empty());
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}
