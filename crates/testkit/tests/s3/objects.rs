//! Single objects: what is put is what is read.

use crate::support::*;

#[tokio::test]
async fn what_was_put_is_read_whole_or_in_part() {
    let (server, client) = start().await;
    let etag = put(&client, "a/b c+d", "0123456789").await;
    assert_eq!(etag, "\"781e5e245d69b566979b86e28d23f2c7\"");
    let whole = get(&client, "a/b c+d").await;
    assert_eq!((whole.status, &*whole.body), (200, &b"0123456789"[..]));
    assert_eq!(whole.header("ETag"), Some(&*etag));
    let part = request(&client, "GET", "a/b c+d").header("Range", "bytes=2-4");
    let part = ask(&client, part).await;
    assert_eq!((part.status, &*part.body), (206, &b"234"[..]));
    assert_eq!(part.header("Content-Range"), Some("bytes 2-4/10"));
    let beyond = request(&client, "GET", "a/b c+d").header("Range", "bytes=10-");
    refused(&ask(&client, beyond).await, 416, "InvalidRange");
    let head = ask(&client, request(&client, "HEAD", "a/b c+d")).await;
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("10")));
    assert_eq!(server.keys(), ["a/b c+d"]);
}
