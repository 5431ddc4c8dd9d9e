//! Who asks: challenges (RFC 9110 section 11, the distribution token specification), credentials, tokens.
//!
//! Invariants: a credential goes to the registry it is for and to the token endpoint that this registry names,
//! nowhere else; neither it nor a token is ever printed; a token is asked for once, however many tasks wait for it,
//! and dropped when it is refused or about to expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

use super::answer::{bounded_text, registry_message};
use super::exchange::Failure;
use super::pace::{Hosts, locked};
use super::retry::{Budget, TRIES, retry_after};
use super::route::Route;
use super::transport::{Transport, is_loopback, trouble};
use crate::config::{self, Config, Credential};
use crate::store::Error;
use crate::store::error::Trouble;

/// Where the token specification does not say how long a token lives, it lives a minute.
const DEFAULT_LIFE: u64 = 60;
const LARGEST_TOKEN_ANSWER: usize = 1 << 20;

/// What a request wants to be allowed, as scopes of the token specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// To be recognised, nothing else.
    pub fn none() -> Self {
        Scopes(Vec::new())
    }

    pub fn pull(repository: &str) -> Self {
        Scopes(vec![format!("repository:{repository}:pull")])
    }

    pub fn push(repository: &str) -> Self {
        Scopes(vec![format!("repository:{repository}:pull,push")])
    }

    /// Besides, to read another repository, so that a blob can be mounted from it.
    pub fn and_pull(mut self, repository: &str) -> Self {
        self.0.push(format!("repository:{repository}:pull"));
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: String },
}

/// The header to send, and the token behind it, for telling whether a refusal is about this one.
pub struct Authorization {
    pub header: HeaderValue,
    /// The token was got for this very request: if it is refused, another one will hardly do better.
    pub fresh: bool,
    token: Option<(TokenKey, u64)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    challenge: Challenge,
    registry: String,
    scopes: Scopes,
    /// The credential may differ by repository.
    repository: String,
}

struct Token {
    header: HeaderValue,
    expires: Instant,
    serial: u64,
}

type TokenSlot = Arc<tokio::sync::Mutex<Option<Token>>>;
type CredentialSlot = Arc<OnceCell<Option<Credential>>>;

/// Challenges met, credentials looked up and tokens held.
pub struct Authenticator {
    config: Arc<Config>,
    challenges: Mutex<HashMap<String, Challenge>>,
    credentials: Mutex<HashMap<(String, String), CredentialSlot>>,
    tokens: Mutex<HashMap<TokenKey, TokenSlot>>,
    serial: std::sync::atomic::AtomicU64,
}

impl Authenticator {
    pub fn new(config: Arc<Config>) -> Self {
        Authenticator {
            config,
            challenges: Mutex::default(),
            credentials: Mutex::default(),
            tokens: Mutex::default(),
            serial: Default::default(),
        }
    }

    /// What to send along, by the challenge that this registry is known to make; nothing before the first one.
    pub async fn authorization(
        &self,
        transport: &Transport,
        hosts: &Hosts,
        route: &Route,
        scopes: &Scopes,
    ) -> Result<Option<Authorization>, Failure> {
        let challenge = locked(&self.challenges).get(&route.origin()).cloned();
        let Some(challenge) = challenge else { return Ok(None) };
        let credential = self.credential(route).await?;
        let sealed = |header| Ok(Some(Authorization { header, fresh: true, token: None }));
        match (&challenge, &credential) {
            (Challenge::Basic, Some(Credential::Basic { user, password })) => sealed(basic(user, password)?),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { .. }, Some(Credential::Bearer(token))) => sealed(bearer(token.expose_secret())?),
            (Challenge::Bearer { realm, service }, _) => {
                let key = TokenKey {
                    challenge: challenge.clone(),
                    registry: route.registry.clone(),
                    scopes: scopes.clone(),
                    repository: route.repository.clone(),
                };
                let slot = locked(&self.tokens).entry(key.clone()).or_default().clone();
                let mut slot = slot.lock().await;
                if let Some(token) = slot.as_ref().filter(|t| t.expires > Instant::now()) {
                    let header = token.header.clone();
                    return Ok(Some(Authorization { header, fresh: false, token: Some((key, token.serial)) }));
                }
                let (header, life) =
                    fetch(transport, hosts, route, realm, service, scopes, credential.as_ref()).await?;
                let serial = self.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                // Asked for again before it expires, so that none dies between here and there.
                let margin = (life / 4).min(Duration::from_secs(30));
                *slot = Some(Token { header: header.clone(), expires: Instant::now() + (life - margin), serial });
                Ok(Some(Authorization { header, fresh: true, token: Some((key, serial)) }))
            }
        }
    }

    /// Whether the registry has asked for a credential.
    pub fn is_asked(&self, route: &Route) -> bool {
        locked(&self.challenges).contains_key(&route.origin())
    }

    /// A 401 came. Drops the token that was refused and learns the challenge. `false`: asking again with what
    /// there is cannot help.
    pub async fn refused(&self, route: &Route, used: Option<&Authorization>, headers: &HeaderMap) -> bool {
        if let Some((key, serial)) = used.and_then(|u| u.token.as_ref()) {
            let slot = locked(&self.tokens).get(key).cloned();
            if let Some(slot) = slot {
                let mut slot = slot.lock().await;
                if slot.as_ref().is_some_and(|t| t.serial == *serial) {
                    *slot = None;
                }
            }
        }
        let said: Vec<&str> = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let known = locked(&self.challenges).get(&route.origin()).cloned();
        let Some(challenge) = choose(&said).or(known.clone()) else { return false };
        let fresh = known.as_ref() != Some(&challenge);
        let is_bearer = matches!(challenge, Challenge::Bearer { .. });
        locked(&self.challenges).insert(route.origin(), challenge);
        // Basic, or a token that was given by the user, does not get better by repetition.
        fresh || used.is_none() || (is_bearer && used.is_some_and(|u| u.token.is_some()))
    }

    /// The credential for the repository, looked up once.
    async fn credential(&self, route: &Route) -> Result<Option<Credential>, Failure> {
        let key = (route.registry.clone(), route.repository.clone());
        let slot = locked(&self.credentials).entry(key).or_default().clone();
        let found = slot.get_or_try_init(|| self.config.credential(&route.registry, &route.repository)).await;
        found.cloned().map_err(|e| Failure::Final(Error::Config(e)))
    }
}

fn secret_header(text: String) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        Failure::Final(Error::Config(config::Error::Refused("a credential holds a control character".into())))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(user: &str, password: &SecretString) -> Result<HeaderValue, Failure> {
    secret_header(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose_secret()))))
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    secret_header(format!("Bearer {token}"))
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Asks the token endpoint, again and again while it has trouble.
async fn fetch(
    transport: &Transport,
    hosts: &Hosts,
    route: &Route,
    realm: &str,
    service: &str,
    scopes: &Scopes,
    credential: Option<&Credential>,
) -> Result<(HeaderValue, Duration), Failure> {
    let denied = |reason: String| Failure::Final(Error::Unauthorized { place: route.place(), reason });
    let url = route.base().join(realm).map_err(|_| denied("the token endpoint that it names is not a URL".into()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(denied("the token endpoint that it names is not an HTTP address".into()));
    }
    if credential.is_some() && url.scheme() == "http" && route.base().scheme() == "https" && !is_loopback(&url) {
        return Err(denied(format!("its token endpoint at {} would get the credential unencrypted", place_of(&url))));
    }
    let pool = transport.pool(&url, &route.tls_for(&url)).map_err(denied)?;
    let host = hosts.of(&url);
    let mut budget = Budget::new(TRIES);
    loop {
        let request = match credential {
            Some(Credential::Identity(refresh)) => {
                let scope = scopes.0.join(" ");
                let form = form(&[
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "mirror"),
                    ("scope", &scope),
                    ("refresh_token", refresh.expose_secret()),
                ]);
                let kind = "application/x-www-form-urlencoded";
                pool.post(url.clone()).header(reqwest::header::CONTENT_TYPE, kind).body(form)
            }
            _ => {
                let mut url = url.clone();
                {
                    let mut query = url.query_pairs_mut();
                    if !service.is_empty() {
                        query.append_pair("service", service);
                    }
                    for scope in &scopes.0 {
                        query.append_pair("scope", scope);
                    }
                }
                let request = pool.get(url);
                match credential {
                    Some(Credential::Basic { user, password }) => {
                        request.header(reqwest::header::AUTHORIZATION, basic(user, password)?)
                    }
                    _ => request,
                }
            }
        };
        host.ready().await;
        let silence = transport.silence(budget.failures());
        let what = format!("token endpoint {}", place_of(&url));
        let broken = |trouble| Error::Transport { place: route.place(), what: what.clone(), trouble };
        let failed = match tokio::time::timeout(silence, request.send()).await {
            Err(_) => broken(Trouble::unreachable(format!("no answer in {} s", silence.as_secs_f64()))),
            Ok(Err(e)) => broken(trouble(&e)),
            Ok(Ok(response)) => {
                let status = response.status();
                let asked_to_wait = retry_after(response.headers(), std::time::SystemTime::now());
                let text = bounded_text(response, LARGEST_TOKEN_ANSWER, silence).await;
                if status.is_success() {
                    let answer: Option<TokenAnswer> = text.as_deref().and_then(|t| serde_json::from_str(t).ok());
                    let life = answer.as_ref().and_then(|a| a.expires_in).filter(|s| *s > 0).unwrap_or(DEFAULT_LIFE);
                    let token = answer.and_then(|a| a.token.filter(|t| !t.is_empty()).or(a.access_token));
                    match token.filter(|t| !t.is_empty()) {
                        Some(token) => return Ok((bearer(&token)?, Duration::from_secs(life.min(86_400)))),
                        None => {
                            let reason = "the answer holds no token".into();
                            Error::Protocol { place: route.place(), what: what.clone(), reason }
                        }
                    }
                } else {
                    let message = registry_message(text.as_deref().unwrap_or_default());
                    let status = status.as_u16();
                    if status == 429 {
                        host.refused();
                    } else if status < 500 {
                        return Err(denied(format!("{what}: HTTP {status}: {message}")));
                    }
                    if let Some(wait) = asked_to_wait.filter(|w| *w <= super::retry::LONGEST_RETRY_AFTER) {
                        host.pause(wait);
                    }
                    Error::Http { place: route.place(), what: what.clone(), status, message }
                }
            }
        };
        match budget.fail() {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(Failure::Final(failed)),
        }
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Host and path: what may be printed of a URL.
fn place_of(url: &Url) -> String {
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    crate::store::error::printable(&format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path()))
}

/// The best challenge among the header's values: a token before a password.
fn choose(values: &[&str]) -> Option<Challenge> {
    let mut basic = None;
    for value in values {
        for (scheme, parameters) in parse(value) {
            let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            match scheme.as_str() {
                "bearer" => {
                    if let Some(realm) = get("realm") {
                        return Some(Challenge::Bearer { realm, service: get("service").unwrap_or_default() });
                    }
                }
                "basic" => basic = Some(Challenge::Basic),
                _ => {}
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// Challenges of one header value: scheme and parameters, names in lower case.
fn parse(value: &str) -> Vec<(String, Parameters)> {
    let mut out: Vec<(String, Parameters)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            // An equals sign where a name belongs: what follows cannot be understood.
            return out;
        }
        let word = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start_matches([' ', '\t']);
        let Some(after) = rest.strip_prefix('=') else {
            out.push((word, Vec::new()));
            if rest.is_empty() {
                return out;
            }
            continue;
        };
        let after = after.trim_start_matches([' ', '\t']);
        let text;
        if let Some(quoted) = after.strip_prefix('"') {
            let mut unquoted = String::new();
            let mut used = quoted.len();
            let mut chars = quoted.char_indices();
            while let Some((i, c)) = chars.next() {
                match c {
                    '"' => {
                        used = i + 1;
                        break;
                    }
                    '\\' => unquoted.extend(chars.next().map(|(_, c)| c)),
                    c => unquoted.push(c),
                }
            }
            text = unquoted;
            rest = &quoted[used..];
        } else {
            let end = after.find([' ', '\t', ',']).unwrap_or(after.len());
            text = after[..end].to_owned();
            rest = &after[end..];
        }
        if let Some((_, parameters)) = out.last_mut() {
            parameters.push((word, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer_of(realm: &str, service: &str) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.into() })
    }

    #[test]
    fn chooses_the_token() {
        let text = r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull,push""#;
        assert_eq!(choose(&[text]), bearer_of("https://auth.example/token", "reg"));
        assert_eq!(choose(&["Basic realm=x", text]), bearer_of("https://auth.example/token", "reg"));
        assert_eq!(choose(&["basic realm=\"a, \\\"b\\\"\", BEARER Realm = \"/t\" , service=s"]), bearer_of("/t", "s"));
        assert_eq!(choose(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(choose(&["Negotiate", "Bearer service=x"]), None);
    }

    #[test]
    fn any_text_is_survived() {
        for text in ["", "=", ",,,", "Bearer", "Bearer =", "Bearer realm=\"", "Bearer realm=\"\\", "é é=é"] {
            parse(text);
        }
    }

    #[test]
    fn scopes_name_both_repositories() {
        let scopes = Scopes::push("a/b").and_pull("c");
        assert_eq!(scopes.0, ["repository:a/b:pull,push", "repository:c:pull"]);
    }
}
