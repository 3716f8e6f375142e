//! What the page of mirrors says: the state of each upstream, the last runs, and what is stored.

use jreg_client::BreakerStatus;
use jreg_http::{ActivityState, MirrorFacts, StoredOfMirror, format_bytes, format_span};
use jreg_mirror::{MirrorOptions, MirrorStatus, Mirrors, SyncReport};
use jreg_oci::RepositoryName;
use jreg_registry::{EvictionReport, LIST_KEYS_MAX, PageRequest, Registry, Result};

/// Repositories of a mirror whose content is counted.
const COUNTED_MAX: usize = 100;

/// What is known of each mirror; with `counts` also what it holds.
pub(super) async fn facts(
    registry: &Registry,
    mirrors: Option<&Mirrors>,
    counts: bool,
) -> Vec<MirrorFacts> {
    let mut facts = Vec::new();
    for status in mirrors.map(Mirrors::status).unwrap_or_default() {
        let names = names_below(registry, &status.prefix).await.ok();
        let stored = match (&names, counts) {
            // What cannot be counted now is as if it was not.
            (Some((names, is_whole)), true) => stored(registry, names, *is_whole).await.ok(),
            _ => None,
        };
        facts.push(fact(status, names, stored));
    }
    facts
}

/// The repositories below a prefix, and whether these are all: one listing.
async fn names_below(
    registry: &Registry,
    prefix: &RepositoryName,
) -> Result<(Vec<RepositoryName>, bool)> {
    let below = format!("{prefix}/");
    let page = PageRequest { limit: LIST_KEYS_MAX, last: Some(below.clone()) };
    let found = registry.catalog(&page).await?;
    let listed = found.items.len();
    let names = found.items.into_iter().take_while(|name| name.as_str().starts_with(&below));
    let names: Vec<_> = names.collect();
    let is_whole = found.next.is_none() || names.len() < listed;
    Ok((names, is_whole))
}

async fn stored(
    registry: &Registry,
    names: &[RepositoryName],
    is_whole: bool,
) -> Result<StoredOfMirror> {
    let _slot = registry.usage_slot()?;
    let uploads = registry.open_uploads().await?;
    let mut stored = StoredOfMirror {
        is_whole: is_whole && names.len() <= COUNTED_MAX,
        ..StoredOfMirror::default()
    };
    for name in names.iter().take(COUNTED_MAX) {
        let usage = registry.repository(name.clone()).storage_usage(&uploads).await?;
        stored.repositories += 1;
        stored.manifests += usage.manifests;
        stored.blobs += usage.blobs;
        stored.bytes += usage.manifest_bytes.saturating_add(usage.blob_bytes);
    }
    Ok(stored)
}

fn fact(
    status: MirrorStatus,
    names: Option<(Vec<RepositoryName>, bool)>,
    stored: Option<StoredOfMirror>,
) -> MirrorFacts {
    let upstreams = status.breakers.iter().map(|(url, breaker)| {
        let (state, note) = upstream_state(breaker);
        (url.to_string(), state, note)
    });
    let upstreams: Vec<_> = upstreams.collect();
    let rate_limit = status.rate_limit.and_then(|of| Some((of.remaining?, of.limit)));
    let is_used_up = rate_limit.is_some_and(|(left, _)| left == 0);
    let states: Vec<ActivityState> = upstreams.iter().map(|(_, state, _)| *state).collect();
    MirrorFacts {
        state: match status.requests {
            0 => ActivityState::Neutral,
            _ => state_of_all(&states, is_used_up),
        },
        upstreams,
        rate_limit: rate_limit.map(|(left, limit)| match limit {
            Some(limit) => format!("{left} of {limit}"),
            None => left.to_string(),
        }),
        settings: settings(&status.options),
        last_sync: status.runs.sync.map(|(at, report)| (at, sync_sentence(&report))),
        last_eviction: status.runs.eviction.map(|(at, report)| (at, eviction_sentence(&report))),
        repositories: names.as_ref().map(|(names, _)| names.len() as u64),
        has_more_repositories: names.is_some_and(|(_, is_whole)| !is_whole),
        stored,
        namespace: status.namespace,
        prefix: status.prefix,
        requests: status.requests,
        failed: status.failed,
        limited: status.limited,
        received_bytes: status.received_bytes,
    }
}

/// One that works is enough to serve; that another does not is worth a look.
fn state_of_all(states: &[ActivityState], is_used_up: bool) -> ActivityState {
    let is = |wanted| states.contains(&wanted);
    match (is(ActivityState::Good), is(ActivityState::Warn), is(ActivityState::Bad)) {
        (true, false, false) if !is_used_up => ActivityState::Good,
        (false, false, true) => ActivityState::Bad,
        _ => ActivityState::Warn,
    }
}

fn upstream_state(breaker: &BreakerStatus) -> (ActivityState, String) {
    match breaker {
        BreakerStatus::Closed => (ActivityState::Good, String::new()),
        BreakerStatus::Failing { failures, last, left: None } => {
            (ActivityState::Warn, format!("{failures} failures in a row, the last: {last}"))
        }
        BreakerStatus::Failing { failures, last, left: Some(left) } => {
            let pause = format_span(*left);
            let note = format!(
                "no request is sent for {pause} after {failures} failures in a row, the last: {last}"
            );
            (ActivityState::Bad, note)
        }
        BreakerStatus::Limited { left } => {
            let note = format!("it asked for a pause of its requests, {} left", format_span(*left));
            (ActivityState::Warn, note)
        }
    }
}

fn settings(options: &MirrorOptions) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("Tags", format!("asked for again after {}", format_span(options.fresh))),
        ("If it fails", format!("content is served for {}", format_span(options.stale_if_error))),
        ("Credentials", if options.has_credentials() { "yes" } else { "anonymous" }.to_owned()),
    ];
    if let Some(keep) = options.keep {
        rows.push(("Kept", format!("{} after the last pull", format_span(keep))));
    }
    if let Some(bytes) = options.bytes_max {
        rows.push(("Largest size", format_bytes(bytes)));
    }
    if let Some((request, interval)) = &options.sync {
        let selections: Vec<String> =
            request.selections.iter().map(ToString::to_string).take(SELECTIONS_SHOWN_MAX).collect();
        let more = if request.selections.len() > selections.len() { " …" } else { "" };
        let every = format_span(*interval);
        rows.push(("Fetched", format!("every {every}: {}{more}", selections.join(", "))));
    }
    rows
}

/// Selections of a schedule that are shown.
const SELECTIONS_SHOWN_MAX: usize = 5;

fn sync_sentence(report: &SyncReport) -> String {
    let SyncReport { tags, manifests_fetched, blobs_fetched, bytes_fetched, failed, is_limited } =
        report;
    let bytes = format_bytes(*bytes_fetched);
    let end = if *is_limited { "; it ended early, at the rate limit" } else { "" };
    format!(
        "{tags} tags, {manifests_fetched} manifests and {blobs_fetched} blobs fetched ({bytes}), {failed} failed{end}"
    )
}

fn eviction_sentence(report: &EvictionReport) -> String {
    let EvictionReport { manifests, evicted, kept_bytes, evicted_bytes } = report;
    let kept = match kept_bytes {
        0 => String::new(),
        bytes => format!(", {} kept", format_bytes(*bytes)),
    };
    format!("{evicted} of {manifests} manifests removed ({}){kept}", format_bytes(*evicted_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_works_if_one_of_its_urls_does() {
        use ActivityState::{Bad, Good, Warn};
        for (states, is_used_up, expected) in [
            (vec![Good], false, Good),
            (vec![Good], true, Warn),
            (vec![Bad, Good], false, Warn),
            (vec![Good, Warn], false, Warn),
            (vec![Bad], false, Bad),
            (vec![Bad, Warn], false, Warn),
        ] {
            assert_eq!(state_of_all(&states, is_used_up), expected, "{states:?}");
        }
    }
}
