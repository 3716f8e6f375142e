//! Archives as programs write them, and as attackers do.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use tar::{EntryType, Header};

use super::*;
use crate::tar_members::{NAME_BYTES_MAX, NAMES_BYTES_MAX};
use crate::tree::read_whole;
use crate::{ArchiveStream, HEADER_BYTES_MAX, LayoutWriter, NoReceiver, Spool, StreamedTree};

/// An archive under construction.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn header(&mut self, kind: EntryType, name: &[u8], link: &[u8], size: u64) -> &mut Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    fn data(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        self.header(EntryType::Regular, name.as_bytes(), b"", bytes.len() as u64).data(bytes)
    }

    fn link(&mut self, kind: EntryType, name: &str, to: &str) -> &mut Self {
        self.header(kind, name.as_bytes(), to.as_bytes(), 0)
    }

    fn pax(&mut self, records: &[(&str, &str)]) -> &mut Self {
        let text: String = records.iter().map(|(key, value)| pax_record(key, value)).collect();
        self.header(EntryType::XHeader, b"pax", b"", text.len() as u64).data(text.as_bytes())
    }

    fn end(&mut self) -> &mut Self {
        self.0.extend_from_slice(&[0; 1024]);
        self
    }

    fn open(&self) -> Result<TarTree> {
        open(&self.0)
    }
}

fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while format!("{length}{rest}").len() != length {
        length += 1;
    }
    format!("{length}{rest}")
}

fn open(bytes: &[u8]) -> Result<TarTree> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    TarTree::open(file)
}

/// Reads an archive as a stream.
async fn streamed(bytes: &[u8], spool: &Spool) -> Result<StreamedTree> {
    let (stream, spool) = (io::Cursor::new(bytes.to_vec()), spool.clone());
    let stream = tokio::task::spawn_blocking(move || ArchiveStream::open(stream, &spool)).await;
    stream.unwrap()?.receive(Arc::new(NoReceiver)).await
}

async fn text(tree: &dyn SourceTree, path: &str) -> Option<String> {
    let bytes = read_whole(tree, path, 1 << 20).await.unwrap()?;
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn files_are_read_by_name_through_links() {
    let long = format!("blobs/sha512/{}", "a".repeat(128));
    let mut archive = Archive::default();
    archive
        .header(EntryType::Directory, b"a/", b"", 0)
        .file("./a/one", b"1")
        .link(EntryType::Symlink, "a/two", "one")
        .link(EntryType::Symlink, "b/three", "../a/two")
        .link(EntryType::Link, "four", "a/one")
        .link(EntryType::Symlink, "nowhere", "x")
        .link(EntryType::Symlink, "circle", "circle")
        .pax(&[("path", &long), ("mtime", "1.5")])
        .file("short", b"long")
        .header(EntryType::GNULongName, b"././@LongLink", b"", long.len() as u64 + 2)
        .data(format!("{long}b\0").as_bytes())
        .file("short", b"longer")
        .end();
    let tree = archive.open().unwrap();
    for (path, expected) in [
        ("a/one", Some("1")),
        ("a/two", Some("1")),
        ("b/three", Some("1")),
        ("four", Some("1")),
        (&*long, Some("long")),
        (&format!("{long}b"), Some("longer")),
        ("nowhere", None),
        ("circle", None),
        ("a", None),
        ("../a/one", None),
        ("/a/one", None),
    ] {
        assert_eq!(text(&tree, path).await.as_deref(), expected, "{path}");
    }
    assert_eq!(tree.names("").await.unwrap(), ["a/", "b/", "blobs/", "circle", "four", "nowhere"]);
    assert_eq!(tree.names("a/").await.unwrap(), ["one", "two"]);
}

#[test]
fn what_programs_read_differently_is_refused() {
    let regular = EntryType::Regular;
    type Make = for<'a> fn(&'a mut Archive) -> &'a mut Archive;
    let cases: [(&str, Make); 16] = [
        ("leads out", |archive| archive.file("../x", b"1")),
        ("leads out", |archive| archive.file("a/../../x", b"1")),
        ("absolute", |archive| archive.file("/etc/passwd", b"1")),
        ("leads out", |archive| archive.link(EntryType::Symlink, "a", "/etc/passwd")),
        ("leads out", |archive| archive.link(EntryType::Symlink, "a/b", "../../x")),
        ("leads out", |archive| archive.link(EntryType::Link, "a", "../x")),
        ("twice", |archive| archive.file("a", b"1").file("./a", b"2")),
        ("twice", |archive| archive.file("a", b"1").link(EntryType::Symlink, "a", "b")),
        ("sparse", |archive| archive.header(EntryType::GNUSparse, b"a", b"", 0)),
        ("sparse", |archive| {
            archive.pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "9")])
        }),
        ("neither", |archive| archive.header(EntryType::Char, b"a", b"", 0)),
        ("neither", |archive| archive.header(EntryType::Fifo, b"a", b"", 0)),
        ("although", |archive| archive.header(EntryType::Symlink, b"a", b"b", 3).data(b"abc")),
        ("character", |archive| archive.file("a\\..\\b", b"1")),
        ("no number", |archive| archive.pax(&[("size", "x")])),
        ("UTF-8", |archive| archive.header(EntryType::Regular, b"a\xff", b"", 0)),
    ];
    for (expected, make) in cases {
        let mut archive = Archive::default();
        make(&mut archive);
        let refused = archive.end().open().unwrap_err().to_string();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    // The size of an extended header counts, so that no second archive hides in a member.
    let mut inner = Archive::default();
    inner.file("hidden", b"1");
    let mut archive = Archive::default();
    archive.pax(&[("size", &inner.0.len().to_string())]);
    archive.header(regular, b"outer", b"", 0).data(&inner.0.clone()).end();
    let tree = archive.open().unwrap();
    assert_eq!(tree.members.all(), ["outer"]);
}

/// Regression: what links lead to had up to 1 MiB each, so that an archive of 28 MB took 4 GB of memory.
#[test]
fn fixed_names_and_targets_of_links_are_bounded() {
    let target = |bytes: usize| {
        let mut archive = Archive::default();
        let to = "a/".repeat(bytes / 2);
        archive.pax(&[("linkpath", &to)]).link(EntryType::Symlink, "l", "a").end();
        archive.open()
    };
    assert!(target(NAME_BYTES_MAX).is_ok());
    let refused = target(NAME_BYTES_MAX + 2).unwrap_err().to_string();
    assert!(refused.contains("too long"), "{refused}");
    let mut map = MemberMap::default();
    let long = "x".repeat(NAMES_BYTES_MAX / 4 - 1);
    for first in ["a", "b", "c"] {
        map.add_file(format!("{first}{long}"), ()).unwrap();
    }
    map.add_link("d".to_owned(), long).unwrap();
    assert!(matches!(map.add_file("e".to_owned(), ()), Err(ArchiveError::TooLarge { .. })));
}

#[test]
fn cut_and_damaged_archives_are_refused() {
    let mut whole = Archive::default();
    whole.file("a", &[7; 1000]).file("b", b"2").end();
    for length in 0..whole.0.len() {
        // Whole members are an archive, also without the padding and the blocks at its end.
        let is_whole = matches!(length, 0 | 1512..=1536 | 2049..=2560 | 3072..);
        assert_eq!(open(&whole.0[..length]).is_ok(), is_whole, "{length}");
    }
    let mut flipped = whole.0.clone();
    flipped[0] ^= 1;
    assert!(matches!(open(&flipped).unwrap_err(), ArchiveError::Damaged { offset: 512, .. }));
    assert!(open(&[b'x'; 4096]).is_err());
    let mut huge = Archive::default();
    huge.header(EntryType::Regular, b"a", b"", u64::MAX / 2).end();
    assert!(huge.open().is_err());
    let mut pax = Archive::default();
    pax.pax(&[("size", "18446744073709551615")]).file("a", b"").end();
    assert!(pax.open().is_err());
    let mut long = Archive::default();
    long.header(EntryType::GNULongName, b"x", b"", HEADER_BYTES_MAX + 1).end();
    assert!(matches!(long.open().unwrap_err(), ArchiveError::TooLarge { .. }));
}

#[tokio::test]
async fn compressed_streams_are_unpacked_within_their_limits() {
    let mut archive = Archive::default();
    archive.file("a", &[b'1'; 100_000]).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive.0).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd =
        ruzstd::encoding::compress_to_vec(&*archive.0, ruzstd::encoding::CompressionLevel::Fastest);
    // Several frames, as some programs write them.
    let (one, two) = archive.0.split_at(50_000);
    let compress = |part: &[u8]| {
        ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest)
    };
    let frames = [compress(one), compress(two)].concat();
    for packed in [&archive.0, &gzip, &zstd, &frames] {
        let tree = streamed(packed, &Spool::default()).await.unwrap();
        assert_eq!(tree.size("a").await.unwrap(), Some(100_000));
        let small = Spool { bytes_max: 99_999, ..Spool::default() };
        assert!(matches!(
            streamed(packed, &small).await.unwrap_err(),
            ArchiveError::TooLarge { .. }
        ));
    }
    for packed in [&gzip, &zstd] {
        let cut = &packed[..packed.len() - 5];
        assert!(streamed(cut, &Spool::default()).await.is_err());
    }
    assert!(streamed(b"", &Spool::default()).await.unwrap().names("").await.unwrap().is_empty());
}

#[tokio::test]
async fn an_archive_that_unpacks_to_far_more_is_refused() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..80 {
        gzip.write_all(&zeros).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    let refused = streamed(&bomb, &Spool::default()).await.unwrap_err().to_string();
    assert!(refused.contains("200 times its size"), "{refused}");
}

#[tokio::test]
async fn what_is_written_is_read_and_is_the_same_each_time() {
    let sha512 = jreg_oci::Digest::of(jreg_oci::Algorithm::Sha512, b"x");
    let sha256 = jreg_oci::Digest::of(jreg_oci::Algorithm::Sha256, b"");
    let write = || {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut writer = LayoutWriter::tar(path.reopen().unwrap());
        writer.write_index(&[], Some(&[])).unwrap();
        writer.begin_blob(&sha512, 1).unwrap();
        assert!(writer.write(b"xy").is_err());
        let mut writer = LayoutWriter::tar(path.reopen().unwrap());
        writer.write_index(&[], Some(&[])).unwrap();
        writer.begin_blob(&sha512, 1).unwrap();
        assert!(writer.end().is_err() && writer.begin_blob(&sha256, 0).is_err());
        writer.write(b"x").unwrap();
        writer.end().unwrap();
        writer.begin_blob(&sha256, 0).unwrap();
        writer.end().unwrap();
        writer.finish().unwrap();
        std::fs::read(path.path()).unwrap()
    };
    let (one, two) = (write(), write());
    assert!(one == two);
    let tree = open(&one).unwrap();
    let path = format!("blobs/sha512/{}", sha512.hex());
    assert_eq!(text(&tree, &path).await.as_deref(), Some("x"));
    assert_eq!(text(&tree, "manifest.json").await.as_deref(), Some("[]"));
    assert_eq!(
        tree.names("").await.unwrap(),
        ["blobs/", "index.json", "manifest.json", "oci-layout"]
    );
}

proptest::proptest! {
    /// Whatever the bytes are, reading them ends, and never panics.
    #[test]
    fn any_bytes_end_in_an_archive_or_an_error(bytes in proptest::collection::vec(0_u8.., 0..4096)) {
        let _ = open(&bytes);
    }

    /// Valid headers with any fields.
    #[test]
    fn any_headers_end_in_an_archive_or_an_error(
        headers in proptest::collection::vec(
            (proptest::num::u8::ANY, "[a-z./]{0,90}", "[a-z./]{0,90}", 0_u64..2000), 0..20)
    ) {
        let mut archive = Archive::default();
        for (kind, name, link, size) in headers {
            archive.header(EntryType::new(kind), name.as_bytes(), link.as_bytes(), size);
            archive.data(&vec![b'x'; usize::try_from(size).unwrap_or_default()]);
        }
        let _ = archive.end().open();
    }
}
