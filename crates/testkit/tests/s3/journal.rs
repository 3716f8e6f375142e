//! What the server remembers of each request.

use jreg_testkit::s3::S3Operation;

use crate::support::*;

#[tokio::test]
async fn every_request_is_recorded_with_what_became_of_it() {
    let (server, client) = start().await;
    let create = request(&client, "PUT", "a/b c").header("If-None-Match", "*").body("0123456789");
    ask(&client, create.clone()).await;
    ask(&client, create).await;
    let part = request(&client, "GET", "a/b c").header("Range", "bytes=1-3");
    ask(&client, part).await;
    ask(&client, client.request("GET", "", &[("list-type", "2"), ("prefix", "a")])).await;
    let seen = server.requests();
    let told: Vec<_> =
        seen.iter().map(|seen| (seen.number, &*seen.method, seen.operation, seen.status)).collect();
    assert_eq!(
        told,
        [
            (0, "PUT", S3Operation::PutObject, Some(200)),
            (1, "PUT", S3Operation::PutObject, Some(412)),
            (2, "GET", S3Operation::GetObject, Some(206)),
            (3, "GET", S3Operation::ListObjectsV2, Some(200)),
        ]
    );
    assert_eq!((&*seen[0].key, seen[0].if_none_match()), ("a/b c", Some("*")));
    assert_eq!((seen[0].bytes_in, seen[2].bytes_out), (10, 3));
    assert_eq!(seen[2].header("range"), Some("bytes=1-3"));
    assert_eq!((&*seen[3].key, &*seen[3].query), ("", "list-type=2&prefix=a"));
}

#[tokio::test]
async fn taken_requests_are_forgotten() {
    let (server, client) = start().await;
    get(&client, "one").await;
    assert_eq!(server.take_requests().len(), 1);
    get(&client, "two").await;
    let since = server.take_requests();
    assert_eq!((since.len(), since[0].number, &*since[0].key), (1, 1, "two"));
    assert!(server.requests().is_empty());
}
