//! Tags, the catalog, and referrers.

use jreg_client::{PageQuery, UpstreamErrorKind};
use jreg_testkit::upstream::{
    RequestKind, RulePick, ScriptedUpstream, UpstreamFault, UpstreamRule,
};
use jreg_testkit::{Image, index_of, sha512};

use super::{client, client_with, digest, kind, name};

#[tokio::test]
async fn lists_are_followed_page_by_page() {
    let upstream = ScriptedUpstream::start().await;
    let hex = upstream.add_image(super::REPOSITORY, None, &Image::plain(1));
    let names = ["a", "b", "c", "d", "e"];
    for tag in names {
        upstream.set_tag(super::REPOSITORY, tag, &hex);
    }
    upstream.set_tag("other", "x", &hex);
    let client = client(&upstream);
    let (mut page, mut found) = (PageQuery::new(Some(2), None), Vec::new());
    loop {
        let tags = client.tags(&name(), &page).await.unwrap();
        found.extend(tags.items.iter().map(|tag| tag.as_str().to_owned()));
        match tags.next {
            Some(next) => page = next,
            None => break,
        }
    }
    assert_eq!(found, names);
    assert_eq!(upstream.count(RequestKind::Tags), 3);
    let after = client.tags(&name(), &PageQuery::new(None, Some("c"))).await.unwrap();
    assert_eq!(after.items.len(), 2);
    let catalog = client.catalog(&PageQuery::new(Some(1), None)).await.unwrap();
    assert_eq!(catalog.items, [name()]);
    let rest = client.catalog(&catalog.next.unwrap()).await.unwrap();
    assert_eq!((rest.items[0].as_str(), rest.next), ("other", None));
    let unknown = client.tags(&"unknown".parse().unwrap(), &PageQuery::default()).await;
    assert_eq!(kind(unknown), UpstreamErrorKind::NotFound);
}

#[tokio::test]
async fn a_link_is_followed_on_the_same_host_and_path_only() {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("a"), &Image::plain(1));
    let link = "<http://127.0.0.1:1/v2/secret/tags/list?n=1&last=a>; rel=\"next\"";
    upstream.add_rule(UpstreamRule::new(UpstreamFault::Header("link".to_owned(), link.to_owned())));
    let next = client(&upstream).tags(&name(), &PageQuery::default()).await.unwrap().next.unwrap();
    assert_eq!(next.as_str(), "n=1&last=a");
    let none = "</v2/>; rel=next";
    upstream.clear_rules();
    upstream.add_rule(UpstreamRule::new(UpstreamFault::Header("link".to_owned(), none.to_owned())));
    let error = kind(client(&upstream).tags(&name(), &PageQuery::default()).await);
    assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn names_that_are_none_are_left_out_and_lists_that_are_none_refused() {
    let upstream = ScriptedUpstream::start().await;
    let rule = |body: &str| {
        let fault =
            UpstreamFault::Status { status: 200, headers: Vec::new(), body: body.to_owned() };
        UpstreamRule::new(fault).pick(RulePick::Nth(1))
    };
    upstream.add_rule(rule(r#"{"tags": ["ok", "not ok", "../x", ""]}"#));
    upstream.add_rule(rule(r#"{"tags": null}"#));
    upstream.add_rule(rule("<html>"));
    let client = client(&upstream);
    let tags = async || client.tags(&name(), &PageQuery::default()).await;
    assert_eq!(tags().await.unwrap().items.len(), 1);
    assert_eq!(tags().await.unwrap().items.len(), 0);
    assert!(matches!(kind(tags().await), UpstreamErrorKind::Protocol { .. }));
}

/// An upstream with an image and three referrers of it.
async fn with_referrers() -> (ScriptedUpstream, Image, Vec<Image>) {
    let upstream = ScriptedUpstream::start().await;
    let image = Image::plain(1);
    upstream.add_image(super::REPOSITORY, None, &image);
    let kinds = [
        "application/vnd.test.signature",
        "application/vnd.test.sbom",
        "application/vnd.test.signature",
    ];
    let referrers: Vec<_> = (10..)
        .zip(kinds)
        .map(|(seed, kind)| Image::referrer(seed, &image.manifest, kind))
        .collect();
    for referrer in &referrers {
        upstream.add_image(super::REPOSITORY, None, referrer);
    }
    (upstream, image, referrers)
}

#[tokio::test]
async fn all_pages_of_referrers_are_one_list() {
    let (upstream, image, referrers) = with_referrers().await;
    upstream.set_referrers_page(1);
    let client = client(&upstream);
    let subject = digest(&image.manifest.digest());
    let found = client.referrers(&name(), &subject, None).await.unwrap();
    assert!(!found.is_fallback);
    let mut digests: Vec<_> =
        found.descriptors.iter().map(|found| found.digest.to_string()).collect();
    let mut expected: Vec<_> = referrers.iter().map(|image| image.manifest.digest()).collect();
    digests.sort();
    expected.sort();
    assert_eq!(digests, expected);
    assert_eq!(upstream.count(RequestKind::Referrers), 3);
    let signatures =
        client.referrers(&name(), &subject, Some("application/vnd.test.signature")).await.unwrap();
    assert_eq!(signatures.descriptors.len(), 2);
    // Half of a list is none.
    let error = kind(
        client_with(&upstream, |options| options.limits.referrer_pages_max = 2)
            .referrers(&name(), &subject, None)
            .await,
    );
    assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
    for fault in [UpstreamFault::status(404), UpstreamFault::status(500)] {
        upstream.clear_rules();
        upstream
            .add_rule(UpstreamRule::new(fault).on(RequestKind::Referrers).pick(RulePick::After(1)));
        let patient = client.with_patience(std::time::Duration::ZERO);
        assert_ne!(
            kind(patient.referrers(&name(), &subject, None).await),
            UpstreamErrorKind::NotFound
        );
    }
}

#[tokio::test]
async fn without_the_api_the_fallback_tag_lists_referrers() {
    let (upstream, image, referrers) = with_referrers().await;
    let subject = digest(&image.manifest.digest());
    let descriptors: Vec<_> = referrers.iter().map(|image| image.manifest.descriptor()).collect();
    let list = upstream.add_manifest(super::REPOSITORY, None, &index_of(&descriptors));
    let tag = image.manifest.digest().replace(':', "-");
    upstream.set_referrers_api(false);
    let client = client(&upstream);
    let none = client.referrers(&name(), &subject, None).await.unwrap();
    assert!(none.is_fallback && none.descriptors.is_empty());
    upstream.set_tag(super::REPOSITORY, &tag, &list);
    let found = client.referrers(&name(), &subject, None).await.unwrap();
    assert_eq!(found.descriptors.len(), 3);
    // The tag of a sha512 is truncated.
    let subject512 = sha512(&image.manifest.bytes);
    let hash = subject512.strip_prefix("sha512:").unwrap();
    upstream.set_tag(super::REPOSITORY, &format!("sha512-{}", hash.get(..64).unwrap()), &list);
    let found = client.referrers(&name(), &digest(&subject512), None).await.unwrap();
    assert_eq!(found.descriptors.len(), 3);
    // Registries without the API respond in several ways.
    upstream.set_referrers_api(true);
    let page = UpstreamFault::Status {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/html".to_owned())],
        body: "<html>".to_owned(),
    };
    for fault in
        [UpstreamFault::status(400), UpstreamFault::status(405), UpstreamFault::status(501), page]
    {
        upstream.clear_rules();
        upstream.add_rule(UpstreamRule::new(fault).on(RequestKind::Referrers));
        assert!(client.referrers(&name(), &subject, None).await.unwrap().is_fallback);
    }
}

#[tokio::test]
async fn a_failure_is_never_an_empty_list_of_referrers() {
    let (upstream, image, _) = with_referrers().await;
    let subject = digest(&image.manifest.digest());
    let client = client(&upstream).with_patience(std::time::Duration::ZERO);
    for fault in [
        UpstreamFault::status(500),
        UpstreamFault::status(403),
        UpstreamFault::too_many_requests(Some(0)),
        UpstreamFault::NoResponse,
        UpstreamFault::ShortBody(5),
        UpstreamFault::ResetAfter(20),
    ] {
        for kind in [RequestKind::Referrers, RequestKind::ManifestGet] {
            upstream.set_referrers_api(kind == RequestKind::Referrers);
            upstream.clear_rules();
            upstream.add_rule(UpstreamRule::new(fault.clone()).on(kind));
            let fallback = client.referrers(&name(), &subject, None).await;
            let is_without_tag = kind == RequestKind::ManifestGet
                && matches!(fault, UpstreamFault::ShortBody(_) | UpstreamFault::ResetAfter(_));
            match is_without_tag {
                // The 404 of the fallback tag, whose body does not matter.
                true => assert!(fallback.unwrap().descriptors.is_empty()),
                false => assert!(fallback.is_err(), "{fault:?} {kind:?}"),
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
}

/// A name that is no tag, or null, is left out, and not the list with it.
#[tokio::test]
async fn what_is_no_name_is_left_out_of_a_list() {
    let upstream = ScriptedUpstream::start().await;
    let body = r#"{"name":"library/app","tags":["v1",null,"<script>","v2"]}"#.to_owned();
    let answer = UpstreamFault::Status { status: 200, headers: Vec::new(), body };
    upstream.add_rule(UpstreamRule::new(answer).on(RequestKind::Tags));
    let page = client(&upstream).tags(&name(), &PageQuery::default()).await.unwrap();
    let tags: Vec<_> = page.items.iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["v1", "v2"]);
}

/// Regression: a list whose pages link to themselves was requested without end.
#[tokio::test]
async fn fixed_page_that_links_to_itself_is_refused() {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    let link = "</v2/library/app/tags/list?n=5&last=a>; rel=\"next\"";
    upstream.add_rule(UpstreamRule::new(UpstreamFault::Header("link".to_owned(), link.to_owned())));
    let client = client(&upstream);
    let page = PageQuery::new(Some(5), Some("a"));
    let tags = kind(client.tags(&name(), &page).await);
    let catalog = kind(client.catalog(&page).await);
    for error in [tags, catalog] {
        assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
    }
}
