//! The server's clock in what it says.

use std::time::{Duration, SystemTime};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn dates_and_modification_times_are_by_the_servers_clock() {
    let (server, client) = start().await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_250);
    server.clock().stop_at(at);
    put(&client, "k", "v").await;
    server.clock().advance(3600 * SECOND);
    let read = get(&client, "k").await;
    assert_eq!(read.header("Last-Modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(read.header("Date"), Some("Sun, 06 Nov 1994 09:49:37 GMT"));
    assert_eq!(read.header_all("Date").count(), 1);
    let list = ask(&client, client.request("GET", "", &[("list-type", "2")])).await;
    assert_eq!(element(&list, "LastModified").as_deref(), Some("1994-11-06T08:49:37.000Z"));
    let missing = get(&client, "missing").await;
    assert_eq!(missing.header("Date"), Some("Sun, 06 Nov 1994 09:49:37 GMT"));
    let whole = SystemTime::UNIX_EPOCH + 784_111_777 * SECOND;
    assert_eq!(server.object("k").unwrap().last_modified, whole);
}
