//! Lists that come in pages (distribution-spec, "Listing tags"): `Link: <…>; rel="next"`, relative or absolute.
//! Invariant: a list of pages is bounded, stays at its registry, and never comes back to a page it had.

use std::collections::{BTreeSet, HashSet};

use reqwest::Method;
use reqwest::header::LINK;
use serde::Deserialize;
use url::Url;

use super::Repository;
use super::answer::{Answer, BodyError};
use super::exchange::Ask;
use super::retry::{Budget, TRIES};
use crate::image::descriptor::null_is_empty;
use crate::store::error::printable;
use crate::store::{Error, Result};

const LARGEST_PAGE: u64 = 32 << 20;
const MOST_PAGES: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    #[serde(default, deserialize_with = "null_is_empty")]
    tags: Vec<String>,
}

impl Repository {
    /// All tags, sorted.
    pub(super) async fn list_tags(&self) -> Result<Vec<String>> {
        let ask = self.asking(Method::GET, "tags/list?n=1000", "tags");
        let answer = self.ask(&ask).await?;
        if answer.status() != 200 {
            return Err(answer.into_error(&ask.what).await);
        }
        let mut tags = BTreeSet::new();
        self.pages(&ask, answer, |body| {
            let page: Page = serde_json::from_slice(body).map_err(|e| e.to_string())?;
            tags.extend(page.tags);
            Ok(())
        })
        .await?;
        Ok(tags.into_iter().collect())
    }

    /// Gives `take` the body of each page, beginning with that of `answer`.
    pub(super) async fn pages(
        &self,
        ask: &Ask<'_>,
        mut answer: Answer,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), String> + Send,
    ) -> Result<()> {
        let protocol = |reason: String| Error::Protocol { place: self.place(), what: ask.what.clone(), reason };
        let mut seen = HashSet::from([answer.url.clone()]);
        let mut budget = Budget::new(TRIES);
        loop {
            let url = answer.url.clone();
            match answer.body(LARGEST_PAGE).await {
                Ok(body) => {
                    let start = || printable(&String::from_utf8_lossy(&body[..body.len().min(4096)]));
                    take(&body).map_err(|e| protocol(format!("the list cannot be read ({e}): {}", start())))?;
                    budget.progressed();
                    let Some(next) = answer.header(LINK).and_then(next_link).map(|l| url.join(l)) else {
                        return Ok(());
                    };
                    let next = next.map_err(|_| protocol("the link to the next page is not a URL".into()))?;
                    if !answer.route.is_home(&next) {
                        return Err(protocol("the next page is at another place".into()));
                    }
                    if !seen.insert(next.clone()) || seen.len() > MOST_PAGES {
                        return Err(protocol(format!("the list does not end ({} pages)", seen.len())));
                    }
                    answer = self.page(ask, answer, next).await?;
                }
                Err(BodyError::TooLarge(size)) => return Err(protocol(format!("a page of {size} bytes is too large"))),
                Err(BodyError::Broken(trouble)) => match budget.fail() {
                    Some(wait) => {
                        tokio::time::sleep(wait).await;
                        answer = self.page(ask, answer, url).await?;
                    }
                    None => {
                        return Err(Error::Transport { place: self.place(), what: ask.what.clone(), trouble });
                    }
                },
            }
        }
    }

    async fn page(&self, ask: &Ask<'_>, before: Answer, url: Url) -> Result<Answer> {
        let route = before.route.clone();
        drop(before);
        let answer = self.client.persist(&route, ask, url, TRIES).await?;
        if answer.status() == 200 { Ok(answer) } else { Err(answer.into_error(&ask.what).await) }
    }
}

/// The target of `rel="next"` in a `Link` header (RFC 8288).
fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, parameters) = after.split_once('>')?;
        let end = parameters.find('<').unwrap_or(parameters.len());
        let is_next = parameters[..end].split([';', ',']).any(|p| {
            p.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
            })
        });
        if is_next {
            return Some(target);
        }
        rest = &parameters[end..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_next_page() {
        assert_eq!(next_link("</v2/a/tags/list?n=3&last=x>; rel=\"next\""), Some("/v2/a/tags/list?n=3&last=x"));
        assert_eq!(next_link("<a>; rel=prev, <b>; rel=next"), Some("b"));
        assert_eq!(next_link("<a>; rel=prev"), None);
        assert_eq!(next_link("<a"), None);
        assert_eq!(next_link(""), None);
    }
}
