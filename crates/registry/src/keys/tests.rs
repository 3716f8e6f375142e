//! Tests of the keys.

use jreg_oci::Algorithm;

use super::*;

fn name(text: &str) -> RepositoryName {
    text.parse().expect(text)
}

#[test]
fn keys_are_laid_out_as_documented() {
    let digest = Digest::of(Algorithm::Sha256, b"");
    let hex = digest.hex();
    let app = name("team/app-1.x");
    let tag: Tag = "v1".parse().expect("a tag");
    assert_eq!(link(&digest, &app).as_str(), format!("links/sha256/e3/{hex}/team.app!1-x"));
    assert_eq!(
        manifest(&app, &digest).as_str(),
        format!("repositories/team/app-1.x/_manifests/sha256/{hex}")
    );
    assert_eq!(super::tag(&app, &tag).as_str(), "repositories/team/app-1.x/_tags/v1");
    assert_eq!(catalog(&app).as_str(), "catalog/team.app!1-x");
    assert!(new_blob(&digest).as_str().starts_with(&format!("blobs/sha256/e3/{hex}/")));
    let unnamed = new_blob_without_digest();
    let parts: Vec<_> = unnamed.as_str().split('/').collect();
    assert!(matches!(parts[..], ["blobs", "_", aa, ulid] if ulid.ends_with(aa)), "{parts:?}");
}

#[test]
fn names_survive_being_one_component_and_keep_their_order() {
    let mut names =
        ["a", "a-b", "a--b", "a.b", "a/b", "a_b", "a__b", "a0", "ab", "a/b-c.d/e"].map(name);
    for name in &names {
        assert_eq!(decode(&encode(name)).as_ref(), Some(name));
        assert_eq!(encode(name).len(), name.as_str().len());
    }
    names.sort();
    let encoded: Vec<_> = names.iter().map(encode).collect();
    assert!(encoded.is_sorted(), "{encoded:?}");
}

#[test]
fn only_what_repositories_name_may_come_back() {
    let digest = Digest::of(Algorithm::Sha256, b"");
    let (app, now) = (name("team/app-1.x"), std::time::SystemTime::now());
    let tag: Tag = "v1.0".parse().expect("a tag");
    for record in [
        super::tag(&app, &tag),
        tag_hint(&app, &digest, &tag),
        manifest(&app, &digest),
        referrer(&app, &digest, &digest),
    ] {
        assert!(may_come_back(&record), "{record}");
    }
    let id = UploadId::new(now, None);
    for other in [new_blob(&digest), new_upload_tail(&id), upload(&id), link(&digest, &app)] {
        assert!(!may_come_back(&other), "{other}");
    }
}

#[test]
fn keys_of_uploads_are_distinguished() {
    let now = std::time::SystemTime::now();
    for algorithm in [None, Some(Algorithm::Sha512)] {
        let id = UploadId::new(now, algorithm);
        assert_eq!(upload_key(&upload(&id)), Some(UploadKey::Session(id.clone())));
        let tail = new_upload_tail(&id);
        assert_eq!(upload_key(&tail), Some(UploadKey::Tail(id, tail.clone())));
    }
    for other in ["uploads/x", "uploads/x.01JD4Z0000000000000000000A", "uploads/x.y"] {
        assert_eq!(upload_key(&key(other.to_owned())), None, "{other}");
    }
}

#[test]
fn every_key_says_what_lies_there() {
    let (app, subject) = (name("team/app-1.x"), Digest::of(Algorithm::Sha512, b"s"));
    let digest = Digest::of(Algorithm::Sha256, b"");
    let tag: Tag = "v1".parse().expect("a tag");
    let latest: Tag = "latest-1.x".parse().expect("a tag");
    let change = ChangeId::after(None, std::time::SystemTime::now());
    let id = UploadId::new(std::time::SystemTime::now(), None);
    for (key, place) in [
        (format(), ParsedKey::Format),
        (new_blob(&digest), ParsedKey::Blob(Some(digest.clone()))),
        (new_blob_without_digest(), ParsedKey::Blob(None)),
        (link(&subject, &app), ParsedKey::Link(subject.clone(), app.clone())),
        (manifest(&app, &digest), ParsedKey::Manifest(app.clone(), digest.clone())),
        (super::tag(&app, &tag), ParsedKey::Tag(app.clone(), tag.clone())),
        (tag_hint(&app, &digest, &tag), ParsedKey::Hint(app.clone(), digest.clone(), tag)),
        (
            referrer(&app, &subject, &digest),
            ParsedKey::Referrer(app.clone(), subject.clone(), digest.clone()),
        ),
        (catalog(&app), ParsedKey::Catalog(app.clone())),
        (
            history_entry(&app, &latest, change, Some(&digest)),
            ParsedKey::History(app.clone(), latest.clone(), change, Some(digest.clone())),
        ),
        (
            history_entry(&app, &latest, change, None),
            ParsedKey::History(app.clone(), latest.clone(), change, None),
        ),
        (
            manifest_copy(&app, &subject, change),
            ParsedKey::ManifestCopy(app.clone(), subject.clone(), change),
        ),
        (purge_mark(&app, &subject), ParsedKey::PurgeMark(app.clone(), subject.clone())),
        (mirror_tag(&app, &latest), ParsedKey::MirrorTag(app.clone(), latest.clone())),
        (mirror_block(&app, &subject), ParsedKey::MirrorBlock(app.clone(), subject.clone())),
        (fill(&app, &digest), ParsedKey::Fill(app.clone(), digest.clone())),
        (upload(&id), ParsedKey::Upload(UploadKey::Session(id.clone()))),
        (note("lease"), ParsedKey::Note),
        (signing_keys(), ParsedKey::Auth),
        (access_token_key("0123456789abcdef").expect("an id"), ParsedKey::Auth),
        (legacy_access_token_key("0123456789abcdef").expect("an id"), ParsedKey::Auth),
        (acme_account(), ParsedKey::Auth),
        (acme_certificate(), ParsedKey::Auth),
        (acme_order(), ParsedKey::Auth),
        (quarantined(&link(&subject, &app)), ParsedKey::Quarantined),
        (queued_event(ChangeId::default()), ParsedKey::Event(EventKey::Queued)),
        (event_segment(u64::MAX / 10_000), ParsedKey::Event(EventKey::Segment)),
        (event_cursor("a-sink"), ParsedKey::Event(EventKey::Cursor)),
        (dead_letter("a", Ulid::generate()), ParsedKey::Event(EventKey::DeadLetter)),
        (events_lease(), ParsedKey::Event(EventKey::Lease)),
    ] {
        assert_eq!(ParsedKey::parse(&key), Some(place), "{key}");
    }
    for other in [
        "x",
        "jreg.json/x",
        "blobs/_/AA/x",
        "links/sha256/aa/bb/a",
        "links/sha256/e3/e3b0/a",
        "repositories/a/_tags",
        "repositories/_tags/v1",
        "repositories/a/_history/v1/x",
        "repositories/a/b",
        "catalog/_",
        "history/a/v1/x",
        "history/a/v1/01JD4Z0000000000000000000A",
        "history/a/v1/01JD4Z0000000000000000000A-other",
        "deleted/a/sha256/00/x",
        "uploads/x",
        "mirror/a/x",
        "mirror/a/tags/x/y",
        "fills/sha256/00/a",
        "auth/x",
        "auth/access-tokens/x",
        "auth/access-tokens/0123456789abcdef/x",
        "auth/robots/x",
        "auth/acme",
        "auth/acme/x",
        "events/x",
        "events/log/1",
        "events/log/000000000000000x",
        "events/queue/x",
        "events/dead/a",
    ] {
        assert_eq!(ParsedKey::parse(&super::key(other.to_owned())), None, "{other}");
    }
    assert_eq!(shard(&link(&digest, &app)), Some("sha256/e3"));
    assert_eq!(event_segment_number(&event_segment(12)), Some(12));
}

#[test]
fn the_longest_names_make_keys_that_every_store_takes() {
    let longest = name(&format!("{}/{}", "a".repeat(127), "b".repeat(127)));
    let tag: Tag = "t".repeat(128).parse().expect("a tag");
    let digest = Digest::of(Algorithm::Sha512, b"");
    for key in [
        link(&digest, &longest),
        tag_hint(&longest, &digest, &tag),
        referrer(&longest, &digest, &digest),
        catalog(&longest),
        history_entry(&longest, &tag, ChangeId::default(), Some(&digest)),
        manifest_copy(&longest, &digest, ChangeId::default()),
        mirror_tag(&longest, &tag),
        mirror_block(&longest, &digest),
        fill(&longest, &digest),
        quarantined(&tag_hint(&longest, &digest, &tag)),
    ] {
        assert!(key.as_str().len() <= jreg_storage::KEY_BYTES_MAX);
    }
}
