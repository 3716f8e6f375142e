//! Ranges of blobs (RFC 9110, section 14).

use jreg_testkit::{Response, get, head, push_blob};

use crate::contract::blobs::blob;

const TEXT: &str = "0123456789";

fn range(range: &str) -> jreg_testkit::Step {
    get(&blob(TEXT)).header("Range", range)
}

/// The parts of a multipart/byteranges body, as `Content-Range=bytes`.
fn parts(response: &Response) -> Result<Vec<String>, String> {
    let kind = response.header("Content-Type").unwrap_or_default();
    let boundary =
        kind.split_once("boundary=").ok_or(format!("no boundary in {kind:?}"))?.1.trim_matches('"');
    let body = String::from_utf8(response.body.to_vec()).map_err(|_| "not text")?;
    let body = format!("\r\n{}", body.trim_start_matches("\r\n"));
    let (parts, _) = body.split_once(&format!("\r\n--{boundary}--")).ok_or("no end")?;
    parts.split(&format!("\r\n--{boundary}\r\n")).skip(1).map(part).collect()
}

fn part(part: &str) -> Result<String, String> {
    let (head, bytes) = part.split_once("\r\n\r\n").ok_or("a part without a head")?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let (_, range) = headers
        .find(|(name, _)| name.eq_ignore_ascii_case("Content-Range"))
        .ok_or("a part without Content-Range")?;
    Ok(format!("{}={bytes}", range.trim()))
}

fn has_parts(expected: &'static [&'static str]) -> impl Fn(&Response) -> Result<(), String> {
    move |response| {
        let parts = parts(response)?;
        if parts == expected { Ok(()) } else { Err(format!("parts {parts:?}, not {expected:?}")) }
    }
}

/// A blob in which all parts of [`many_ranges`] differ.
fn long_text() -> String {
    (0..20_000).map(|number| format!("{number:05}")).collect()
}

fn many_ranges(count: usize) -> String {
    let ranges: Vec<_> =
        (0..count).map(|part| format!("{}-{}", part * 40, part * 40 + 9)).collect();
    format!("bytes={}", ranges.join(","))
}

fn has_many_parts(count: usize) -> impl Fn(&Response) -> Result<(), String> {
    move |response| {
        let text = long_text();
        let part = |part: usize| {
            let (start, end) = (part * 40, part * 40 + 9);
            format!("bytes {start}-{end}/100000={}", text.get(start..=end).unwrap_or_default())
        };
        let expected: Vec<_> = (0..count).map(part).collect();
        if parts(response)? == expected { Ok(()) } else { Err("other parts".to_owned()) }
    }
}

contract! {
    c14_single_range: steps![
        push_blob(TEXT),
        range("bytes=0-0").is(206).gives("0").has("Content-Range", "bytes 0-0/10").has("Content-Length", "1"),
        range("bytes=2-5").is(206).gives("2345").has("Content-Range", "bytes 2-5/10"),
        range("bytes=0-9").is(206).gives(TEXT).has("Content-Range", "bytes 0-9/10"),
        range("bytes=9-9").is(206).gives("9").has("Accept-Ranges", "bytes"),
    ];

    c14_open_range: steps![
        push_blob(TEXT),
        range("bytes=0-").is(206).gives(TEXT).has("Content-Range", "bytes 0-9/10"),
        range("bytes=7-").is(206).gives("789").has("Content-Range", "bytes 7-9/10"),
    ];

    c14_suffix_range: steps![
        push_blob(TEXT),
        range("bytes=-3").is(206).gives("789").has("Content-Range", "bytes 7-9/10"),
        range("bytes=-500").is(206).gives(TEXT).has("Content-Range", "bytes 0-9/10"),
    ];

    c14_end_is_clamped: steps![
        push_blob(TEXT),
        range("bytes=5-500").is(206).gives("56789").has("Content-Range", "bytes 5-9/10"),
        range("bytes=5-18446744073709551615").is(206).gives("56789"),
    ];

    c14_unsatisfiable_range_is_416: steps![
        push_blob(TEXT),
        range("bytes=10-").is(416).has("Content-Range", "bytes */10"),
        range("bytes=10-20").is(416).has("Content-Range", "bytes */10"),
        range("bytes=-0").is(416).has("Content-Range", "bytes */10"),
        range("bytes=500-0").is(416).has("Content-Range", "bytes */10"),
        range("bytes=20-30,40-50").is(416).has("Content-Range", "bytes */10"),
    ];

    c14_multi_range: steps![
        push_blob(TEXT),
        range("bytes=0-1,4-5")
            .is(206)
            .has_part("Content-Type", "multipart/byteranges")
            .satisfies(has_parts(&["bytes 0-1/10=01", "bytes 4-5/10=45"])),
        range("bytes=-1, 0-0")
            .is(206)
            .satisfies(has_parts(&["bytes 9-9/10=9", "bytes 0-0/10=0"])),
        range("bytes=0-1,20-30").is(206),
    ];

    /// Many small or overlapping ranges cost more than the whole: never an error, never much more
    /// than the blob.
    c14_many_ranges_are_bounded: steps![
        push_blob(TEXT),
        range(&format!("bytes={}", vec!["0-"; 1000].join(","))).is_one_of([200, 206, 416]).satisfies(|response| {
            let len = response.body.len();
            if len < 10_000 { Ok(()) } else { Err(format!("{len} bytes for a blob of 10")) }
        }),
    ];

    /// Clients of zstd:chunked layers request up to 1,024 ranges, and match the parts by their
    /// order.
    c14_many_ranges_are_parts: steps![
        push_blob(long_text()),
        get(&blob(long_text())).header("Range", &many_ranges(33)).is(206).satisfies(has_many_parts(33)),
        get(&blob(long_text())).header("Range", &many_ranges(1024)).is(206).satisfies(has_many_parts(1024)),
        // More than any client requests.
        get(&blob(long_text())).header("Range", &many_ranges(2049)).is(200).gives(long_text()),
    ];

    c14_parts_come_in_the_order_that_was_asked_for: steps![
        push_blob(TEXT),
        range("bytes=8-8,0-1,2-3,5-5")
            .is(206)
            .satisfies(has_parts(&["bytes 8-8/10=8", "bytes 0-1/10=01", "bytes 2-3/10=23", "bytes 5-5/10=5"])),
        range("bytes=0-2,1-4,8-8")
            .is(206)
            .satisfies(has_parts(&["bytes 0-4/10=01234", "bytes 8-8/10=8"])),
    ];

    fixed_unparsable_range_is_the_whole: steps![
        push_blob(TEXT),
        range("bytes=abc").is(200).gives(TEXT),
        range("bytes=").is(200).gives(TEXT),
        range("bytes=-").is(200).gives(TEXT),
        range("bytes=1-2-3").is(200).gives(TEXT),
        range("bytes=--5").is(200).gives(TEXT),
        range("bytes=+1-2").is(200).gives(TEXT),
        range("chars=0-4").is(200).gives(TEXT),
        range("0-4").is(200).gives(TEXT),
        range("bytes").is(200).gives(TEXT),
        range("bytes=99999999999999999999999999-").is_one_of([200, 416]),
    ];

    if_range: steps![
        push_blob(TEXT),
        head(&blob(TEXT)).is(200).keep("ETag", "etag"),
        range("bytes=0-1").header("If-Range", "{etag}").is(206).gives("01"),
        range("bytes=0-1").header("If-Range", "\"other\"").is(200).gives(TEXT),
        range("bytes=0-1").header("If-Range", "W/{etag}").is(200).gives(TEXT),
        range("bytes=50-").header("If-Range", "\"other\"").is(200).gives(TEXT),
        range("bytes=0-1").header("If-Range", "Wed, 21 Oct 2015 07:28:00 GMT").is(200).gives(TEXT),
    ];

    range_of_a_head_is_not_a_part: steps![
        push_blob(TEXT),
        head(&blob(TEXT)).header("Range", "bytes=0-1").is_one_of([200, 206]).has("Accept-Ranges", "bytes"),
    ];

    range_of_an_absent_blob_is_404: steps![
        range("bytes=0-1").is(404).code("BLOB_UNKNOWN"),
    ];
}
