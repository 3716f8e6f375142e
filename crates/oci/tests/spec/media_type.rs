//! Media types.

use jreg_oci::{MediaType, media_type};
use proptest::prelude::*;

#[test]
fn media_types_are_accepted_as_they_are() {
    let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
    let accepted = [
        media_type::OCI_IMAGE_MANIFEST,
        media_type::OCI_IMAGE_INDEX,
        media_type::OCI_ARTIFACT_MANIFEST,
        media_type::OCI_EMPTY,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_MANIFEST_LIST,
        media_type::DOCKER_FOREIGN_LAYER,
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.buildkit.cacheconfig.v0",
        "application/vnd.cncf.helm.config.v1+json",
        "Text/Plain",
        "a/b",
        "a!#$&-^_.+/b!#$&-^_.+",
        &longest,
    ];
    for text in accepted {
        let media_type: MediaType = text.parse().unwrap();
        assert_eq!(media_type, text);
        assert_eq!((media_type.as_str(), media_type.to_string().as_str()), (text, text));
    }
}

#[test]
fn other_media_types_are_refused() {
    let too_long = format!("{}/b", "a".repeat(128));
    let refused = [
        "",
        "application",
        "/",
        "a/",
        "/b",
        "a/b/c",
        "a /b",
        "a/ b",
        "a/b;c=d",
        "a/b;",
        " a/b",
        "a/b\n",
        "a/b\0",
        "+a/b",
        "a/.b",
        "a/é",
        "*/*",
        "a/*",
        "a,b/c",
        "\"a\"/b",
        &too_long,
    ];
    for text in refused {
        let error = text.parse::<MediaType>().unwrap_err().to_string();
        assert!(error.starts_with("invalid media type"), "{error}");
        assert!(error.contains("must"), "{text:?}: {error}");
    }
}

#[test]
fn a_content_type_loses_its_parameters() {
    let json = "application/json";
    let accepted = [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=utf-8",
        " application/json\t; charset=\"a;b\"",
        "application/json;",
        "application/json ;;",
    ];
    for header in accepted {
        assert_eq!(MediaType::from_content_type(header).unwrap(), json, "{header:?}");
    }
    for header in ["", ";", "; charset=utf-8", "application", "a/b, c/d", "a/b\n"] {
        assert!(MediaType::from_content_type(header).is_err(), "{header:?}");
    }
}

#[test]
fn case_is_kept_but_can_be_ignored() {
    let upper: MediaType = "Application/JSON".parse().unwrap();
    assert_eq!(upper.as_str(), "Application/JSON");
    assert_ne!(upper, "application/json");
    assert!(upper.is("application/json"));
    assert!(!upper.is("application/jsonp"));
}

#[test]
fn layers_that_may_be_elsewhere_are_known() {
    let elsewhere = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        media_type::DOCKER_FOREIGN_LAYER,
    ];
    for text in elsewhere {
        assert!(text.parse::<MediaType>().unwrap().is_nondistributable_layer(), "{text}");
    }
    let here = [
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/octet-stream",
    ];
    for text in here {
        assert!(!text.parse::<MediaType>().unwrap().is_nondistributable_layer(), "{text}");
    }
}

#[test]
fn the_constants_are_valid() {
    let constants = [
        MediaType::OCI_IMAGE_MANIFEST,
        MediaType::OCI_IMAGE_INDEX,
        MediaType::OCI_ARTIFACT_MANIFEST,
        MediaType::OCI_EMPTY,
        MediaType::DOCKER_MANIFEST,
        MediaType::DOCKER_MANIFEST_LIST,
    ];
    for constant in constants {
        assert_eq!(constant.as_str().parse::<MediaType>(), Ok(constant.clone()));
    }
}

proptest! {
    #[test]
    fn what_parses_is_shown_as_it_was(text in "[a-zA-Z0-9+./; -]{0,20}|\\PC*") {
        if let Ok(media_type) = text.parse::<MediaType>() {
            prop_assert_eq!(media_type.as_str(), text.as_str());
            prop_assert_eq!(MediaType::from_content_type(&text).unwrap(), media_type);
        }
        if let Ok(media_type) = MediaType::from_content_type(&text) {
            prop_assert_eq!(media_type.as_str().parse(), Ok(media_type.clone()));
        }
    }
}
