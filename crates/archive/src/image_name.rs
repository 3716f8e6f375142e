//! [`ImageName`]: the names of images as other tools write them.

use std::str::FromStr;

use jreg_oci::{Digest, RepositoryName, Tag};

/// `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, without the host.
///
/// ```
/// # use jreg_archive::ImageName;
/// let name: ImageName = "docker.io/library/alpine:3.20".parse().unwrap();
/// assert_eq!(name.repository.as_str(), "library/alpine");
/// assert_eq!(name.tag.unwrap().as_str(), "3.20");
/// assert!("localhost:5000/team/app".parse::<ImageName>().unwrap().tag.is_none());
/// assert!("Team/app:v1".parse::<ImageName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    pub repository: RepositoryName,
    pub tag: Option<Tag>,
}

/// Why a text is not the name of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid name of an image {name:?}: {reason}")]
pub struct InvalidImageName {
    name: String,
    reason: String,
}

impl FromStr for ImageName {
    type Err = InvalidImageName;

    fn from_str(name: &str) -> Result<Self, InvalidImageName> {
        let invalid =
            |reason: String| InvalidImageName { name: name.chars().take(300).collect(), reason };
        let named = match name.split_once('@') {
            Some((named, digest)) => {
                digest.parse::<Digest>().map_err(|error| invalid(error.to_string()))?;
                named
            }
            None => name,
        };
        let last = named.rfind('/').map_or(0, |slash| slash + 1);
        let colon = named.get(last..).and_then(|last| last.find(':')).map(|colon| last + colon);
        let (path, tag) = match colon.and_then(|colon| named.split_at_checked(colon)) {
            Some((path, tag)) => (path, Some(tag.trim_start_matches(':'))),
            None => (named, None),
        };
        let path = match path.split_once('/') {
            Some((host, rest)) if is_host(host) => rest,
            _ => path,
        };
        let repository = path.parse().map_err(|error| invalid(format!("{error}")))?;
        let tag = tag.map(str::parse).transpose().map_err(|error| invalid(format!("{error}")))?;
        Ok(Self { repository, tag })
    }
}

fn is_host(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_other_tools_are_read() {
        for (text, repository, tag) in [
            ("alpine", "alpine", None),
            ("alpine:latest", "alpine", Some("latest")),
            ("docker.io/library/alpine:3", "library/alpine", Some("3")),
            ("localhost/app", "app", None),
            ("host:5000/a/b:v1", "a/b", Some("v1")),
            ("[::1]:5000/a:v1", "a", Some("v1")),
            ("team.x/app", "app", None),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!(name.repository.as_str(), repository, "{text}");
            assert_eq!(name.tag.as_ref().map(Tag::as_str), tag, "{text}");
        }
        let digest = format!("sha256:{}", "0".repeat(64));
        let name: ImageName = format!("host.x/a:v1@{digest}").parse().unwrap();
        assert_eq!(name.tag.unwrap().as_str(), "v1");
        for text in ["", ":v1", "a:", "a@x", "A", "a/../b", "a b", "host.x/"] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }
}
