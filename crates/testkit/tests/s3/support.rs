//! What these tests ask in one line.

use jreg_testkit::s3::{S3Client, S3Server, S3Spec};
use jreg_testkit::{Request, Response};

/// A server as AWS is, and a client of it.
pub(crate) async fn start() -> (S3Server, S3Client) {
    start_with(|_| {}).await
}

/// A server with something changed, and a client of it.
pub(crate) async fn start_with(change: impl FnOnce(&mut S3Spec)) -> (S3Server, S3Client) {
    let server = S3Server::start(S3Spec::with(change)).await;
    let client = server.client();
    (server, client)
}

/// A request without query.
pub(crate) fn request(client: &S3Client, method: &str, key: &str) -> Request {
    client.request(method, key, &[])
}

/// Sends a request, and returns the response.
pub(crate) async fn ask(client: &S3Client, request: Request) -> Response {
    client.send(request).await.unwrap()
}

/// Puts, and gives the etag as it came.
pub(crate) async fn put(client: &S3Client, key: &str, bytes: &'static str) -> String {
    let put = ask(client, request(client, "PUT", key).body(bytes)).await;
    assert_eq!(put.status, 200, "{put}");
    put.header("ETag").unwrap().to_owned()
}

/// Gets what is there.
pub(crate) async fn get(client: &S3Client, key: &str) -> Response {
    ask(client, request(client, "GET", key)).await
}

/// The text of the first element of this name, as XML has it.
pub(crate) fn element(response: &Response, name: &str) -> Option<String> {
    elements(response, name).into_iter().next()
}

/// The texts of all elements of this name.
pub(crate) fn elements(response: &Response, name: &str) -> Vec<String> {
    let xml = String::from_utf8(response.body.to_vec()).unwrap();
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open)
        .skip(1)
        .map(|rest| rest.split(&close).next().unwrap().replace("&quot;", "\""))
        .collect()
}

/// Checks status and code of a refusal.
#[track_caller]
pub(crate) fn refused(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{response}");
    assert_eq!(element(response, "Code").as_deref(), Some(code), "{response}");
}
