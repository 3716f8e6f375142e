//! The README of a Helm chart, out of its archive, with limits on everything that an archive can be.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

/// Maximum size of a chart that is read.
pub const CHART_BYTES_MAX: u64 = 4 << 20;
/// Maximum bytes of it that are unpacked.
const UNPACKED_BYTES_MAX: u64 = 16 << 20;
/// Maximum bytes of a README that are shown.
const README_BYTES_MAX: u64 = 64 << 10;
/// Length of a header, and of what entries are padded to.
const BLOCK: usize = 512;

/// The README of a chart: of the chart itself, not of one that it contains. `None`: there is none within the limits.
pub fn read_readme(archive: &[u8]) -> Option<String> {
    let mut unpacked = MultiGzDecoder::new(archive).take(UNPACKED_BYTES_MAX);
    // Each entry costs a block at least, so their number is limited, too.
    loop {
        let header = TarHeader::read(&mut unpacked)?;
        if header.is_file && is_readme(&header.name) {
            let mut bytes = Vec::new();
            let length = header.size.min(README_BYTES_MAX);
            unpacked.by_ref().take(length).read_to_end(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            return (!text.trim().is_empty()).then_some(text);
        }
        let padded = header.size.checked_next_multiple_of(BLOCK as u64)?;
        let skipped = io::copy(&mut unpacked.by_ref().take(padded), &mut io::sink()).ok()?;
        if skipped < padded {
            return None;
        }
    }
}

/// `<chart>/README.md`, and nothing below.
fn is_readme(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let mut parts = name.split(|byte| *byte == b'/');
    let (folder, file) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    !folder.is_empty()
        && parts.next().is_none()
        && [&b"readme.md"[..], b"readme.txt", b"readme"]
            .iter()
            .any(|known| file.eq_ignore_ascii_case(known))
}

struct TarHeader {
    name: Vec<u8>,
    size: u64,
    is_file: bool,
}

impl TarHeader {
    /// `None`: the archive has ended, or is no such archive.
    fn read(from: &mut impl Read) -> Option<Self> {
        let mut block = [0; BLOCK];
        from.read_exact(&mut block).ok()?;
        let field = |start: usize, length: usize| block.get(start..start + length);
        let text =
            |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let mut name = text(field(0, 100)?);
        if name.is_empty() {
            return None;
        }
        let prefix = text(field(345, 155)?);
        if field(257, 5)? == b"ustar" && !prefix.is_empty() {
            name = [prefix, vec![b'/'], name].concat();
        }
        let kind = *block.get(156)?;
        Some(Self { name, size: octal(field(124, 12)?)?, is_file: matches!(kind, b'0' | 0) })
    }
}

/// A size in octal digits, padded with spaces or zero bytes. The binary form is only of sizes that are not read.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn entry(name: &str, kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[257..262].copy_from_slice(b"ustar");
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        entry(name, b'0', content.len() as u64, content)
    }

    fn packed(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        for entry in entries {
            encoder.write_all(entry).unwrap();
        }
        encoder.write_all(&[0; 2 * BLOCK]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_readme_of_the_chart_itself_is_found() {
        let chart = file("shop/Chart.yaml", b"name: shop");
        let other = file("shop/charts/redis/README.md", b"redis");
        let readme = file("shop/README.md", b"# Shop\r\n\r\nText.");
        let archive = packed(&[chart.clone(), other.clone(), readme]);
        assert_eq!(read_readme(&archive).as_deref(), Some("# Shop\n\nText."));
        for (entries, found) in [
            (vec![chart.clone(), other.clone()], None),
            (vec![file("./shop/readme.TXT", b"x")], Some("x")),
            (vec![file("README.md", b"x")], None),
            (vec![file("shop/README.md", b" \n")], None),
            (vec![entry("shop/README.md", b'2', 0, b""), file("shop/README", b"y")], Some("y")),
            (vec![file("shop/README.md", b"\xff\xfe")], Some("\u{fffd}\u{fffd}")),
        ] {
            assert_eq!(read_readme(&packed(&entries)).as_deref(), found);
        }
    }

    #[test]
    fn archives_of_attackers_are_limited() {
        let readme = file("shop/README.md", b"text");
        // A gigabyte of zeros in a small archive, and a size that is not true.
        let huge = entry("shop/a", b'0', 1 << 30, &vec![0; 20 << 20]);
        for archive in [
            packed(&[huge, readme.clone()]),
            packed(&[entry("shop/a", b'0', 0o77_777_777_777, b""), readme.clone()]),
            packed(&[]),
            b"not an archive".to_vec(),
            Vec::new(),
            packed(std::slice::from_ref(&readme))[..40].to_vec(),
            packed(&[vec![b'x'; 5000]]),
        ] {
            assert_eq!(read_readme(&archive), None);
        }
        let long = packed(&[file("shop/README.md", &vec![b'x'; 1 << 20])]);
        assert_eq!(read_readme(&long).unwrap().len() as u64, README_BYTES_MAX);
        // A README that ends early is shown as far as it goes.
        let cut = packed(&[entry("shop/README.md", b'0', 4000, b"begin")]);
        assert!(read_readme(&cut).unwrap().starts_with("begin"));
        for cut in 0..archive_len(&readme) {
            let archive = packed(std::slice::from_ref(&readme));
            let _ = read_readme(&archive[..cut]);
        }
    }

    fn archive_len(entry: &[u8]) -> usize {
        packed(&[entry.to_vec()]).len()
    }
}
