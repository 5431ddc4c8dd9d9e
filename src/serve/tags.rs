//! Lists: the tags of a repository and the repositories of the registry, page by page, in byte order.

use std::collections::BTreeMap;
use std::ops::Bound;

use axum::http::{HeaderValue, header};
use serde_json::json;
use url::form_urlencoded;

use super::answer;
use super::error::{Answer, Code, Refusal};
use super::route::Query;
use super::storage::Storage;

/// Repositories in a page of the catalogue when the client does not say.
const CATALOG_PAGE: usize = 1000;

/// A page, and the name after which the next one begins.
struct Page {
    names: Vec<String>,
    next: Option<String>,
}

/// At most `n` names (of the query, else `default`) after `last`.
fn page<V>(all: &BTreeMap<String, V>, query: &Query, default: usize) -> Result<Page, Refusal> {
    let n = match query.get("n") {
        None => default,
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| Refusal::new(Code::PaginationNumberInvalid, "n is the number of names wanted"))?,
    };
    let from = query.get("last").map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = all.range::<str, _>((from, Bound::Unbounded)).map(|(name, _)| name);
    let names: Vec<String> = rest.by_ref().take(n).cloned().collect();
    let next = if rest.next().is_some() { names.last().cloned() } else { None };
    Ok(Page { names, next })
}

/// The answer with a page in it, and the way to the next.
fn answer(path: &str, body: &serde_json::Value, page: &Page) -> Answer {
    let mut response = answer::json(body);
    if let Some(last) = &page.next {
        let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
        let link = format!("<{path}?n={}&last={last}>; rel=\"next\"", page.names.len());
        let link = HeaderValue::from_str(&link).map_err(|e| answer::unwritable(e.into()))?;
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

pub(super) fn list(storage: &Storage, repository: &str, query: &Query) -> Answer {
    let page = {
        let contents = storage.contents();
        let held = contents.repositories.get(repository).ok_or_else(|| {
            Refusal::new(Code::NameUnknown, format!("repository {repository} is not in this registry"))
        })?;
        page(&held.tags, query, usize::MAX)?
    };
    answer(&format!("/v2/{repository}/tags/list"), &json!({ "name": repository, "tags": page.names }), &page)
}

pub(super) fn catalog(storage: &Storage, query: &Query) -> Answer {
    let page = page(&storage.contents().repositories, query, CATALOG_PAGE)?;
    answer("/v2/_catalog", &json!({ "repositories": page.names }), &page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let all: BTreeMap<String, ()> = ["A", "a", "b", "c"].map(|n| (n.to_string(), ())).into();
        let page = |query: &str| page(&all, &Query::parse(Some(query)), usize::MAX).map(|p| (p.names, p.next));
        assert_eq!(page("").unwrap(), (["A", "a", "b", "c"].map(String::from).into(), None));
        assert_eq!(page("n=2").unwrap(), (["A", "a"].map(String::from).into(), Some("a".into())));
        assert_eq!(page("n=2&last=a").unwrap(), (["b", "c"].map(String::from).into(), None));
        assert_eq!(page("last=B").unwrap().0, ["a", "b", "c"]);
        assert_eq!(page("n=0").unwrap(), (vec![], None));
        assert_eq!(page("n=5&last=c").unwrap(), (vec![], None));
        assert!(page("n=-1").is_err() && page("n=x").is_err());
    }
}
