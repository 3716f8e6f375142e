//! Requests and what must come back, as rows of data.
//!
//! A step is one request and its expectations. `{name}` in a target, a header or an expectation
//! stands for a value that an earlier step kept; `{repo}` is there from the start.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use crate::client::path_of;
use crate::{Blob, Client, Image, Manifest, Request, Response};

type StepCheck = Box<dyn Fn(&Response) -> Result<(), String> + Send + Sync>;

/// One request, and what its response must be like.
pub struct Step {
    request: Request,
    statuses: Vec<u16>,
    headers: Vec<(String, Expected)>,
    body: Option<Bytes>,
    json: Vec<(String, Value)>,
    code: Option<String>,
    kept: Vec<(String, String)>,
    checks: Vec<StepCheck>,
}

enum Expected {
    Exactly(String),
    Containing(String),
    Absent,
}

impl From<Step> for Vec<Step> {
    fn from(step: Step) -> Self {
        vec![step]
    }
}

fn step(method: &str, target: &str) -> Step {
    Step {
        request: Request::new(method, target),
        statuses: Vec::new(),
        headers: Vec::new(),
        body: None,
        json: Vec::new(),
        code: None,
        kept: Vec::new(),
        checks: Vec::new(),
    }
}

pub fn get(target: &str) -> Step {
    step("GET", target)
}

pub fn head(target: &str) -> Step {
    step("HEAD", target)
}

/// A POST, with an empty body unless one is given.
pub fn post(target: &str) -> Step {
    step("POST", target).body("")
}

/// A PUT, with an empty body unless one is given.
pub fn put(target: &str) -> Step {
    step("PUT", target).body("")
}

/// A PATCH, with an empty body unless one is given.
pub fn patch(target: &str) -> Step {
    step("PATCH", target).body("")
}

pub fn delete(target: &str) -> Step {
    step("DELETE", target)
}

/// Pushes bytes as a blob in one request.
pub fn push_blob(bytes: impl Into<Bytes>) -> Step {
    let bytes = bytes.into();
    post(&format!("/v2/{{repo}}/blobs/uploads/?digest={}", crate::sha256(&bytes)))
        .body(bytes)
        .is(201)
}

/// Pushes bytes as a blob to another repository.
pub fn push_blob_to(repository: &str, bytes: impl Into<Bytes>) -> Step {
    let bytes = bytes.into();
    post(&format!("/v2/{repository}/blobs/uploads/?digest={}", crate::sha256(&bytes)))
        .body(bytes)
        .is(201)
}

/// Pushes a manifest to a tag or digest.
pub fn push_manifest(reference: &str, manifest: &Manifest) -> Step {
    put(&format!("/v2/{{repo}}/manifests/{reference}"))
        .header("Content-Type", &manifest.media_type)
        .body(manifest.bytes.clone())
        .is(201)
}

/// Pushes an image's blobs, then its manifest.
pub fn push_image(reference: &str, image: &Image) -> Vec<Step> {
    let blobs = image.blobs.iter().map(|blob: &Blob| push_blob(blob.bytes.clone()));
    blobs.chain([push_manifest(reference, &image.manifest)]).collect()
}

impl Step {
    /// Uses another method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.request.method);
        self
    }

    /// Sends a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Sends a body with its Content-Length.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        self.request = self.request.body(bytes);
        self
    }

    /// Sends a body in chunks, without Content-Length.
    #[must_use]
    pub fn chunked<const N: usize>(mut self, chunks: [&'static str; N]) -> Self {
        self.request = self.request.chunked(chunks);
        self
    }

    /// The status must be this.
    #[must_use]
    pub fn is(mut self, status: u16) -> Self {
        self.statuses = vec![status];
        self
    }

    /// The status must be one of these, where the specification leaves a choice.
    #[must_use]
    pub fn is_one_of<const N: usize>(mut self, statuses: [u16; N]) -> Self {
        self.statuses = statuses.into();
        self
    }

    /// A header must be exactly this; of a `Location`, what follows its scheme and host.
    #[must_use]
    pub fn has(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), Expected::Exactly(value.to_owned())));
        self
    }

    /// A header must contain this.
    #[must_use]
    pub fn has_part(mut self, name: &str, part: &str) -> Self {
        self.headers.push((name.to_owned(), Expected::Containing(part.to_owned())));
        self
    }

    /// A header must not be there.
    #[must_use]
    pub fn lacks(mut self, name: &str) -> Self {
        self.headers.push((name.to_owned(), Expected::Absent));
        self
    }

    /// The body must be exactly these bytes.
    #[must_use]
    pub fn gives(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body = Some(bytes.into());
        self
    }

    /// The body must be JSON with this value at this pointer; null is absence. `{name}` is not
    /// expanded in values, except in a value that is one string.
    #[must_use]
    pub fn json(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        self.json.push((pointer.to_owned(), value.into()));
        self
    }

    /// The body must be an error of this code.
    #[must_use]
    pub fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// Keeps a header's value under a name.
    #[must_use]
    pub fn keep(mut self, header: &str, name: &str) -> Self {
        self.kept.push((header.to_owned(), name.to_owned()));
        self
    }

    /// The response must pass a check of the caller's.
    #[must_use]
    pub fn satisfies(
        mut self,
        check: impl Fn(&Response) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Box::new(check));
        self
    }
}

/// A client in flight through steps, with the values kept so far.
#[derive(Debug)]
pub struct Scenario {
    name: String,
    client: Client,
    kept: BTreeMap<String, String>,
    done: usize,
}

impl Scenario {
    /// A scenario against a server. The name is shown when a step fails, and is the repository
    /// that `{repo}` stands for.
    pub fn new(name: &str, client: Client) -> Self {
        let kept = BTreeMap::from([("repo".to_owned(), format!("contract/{name}"))]);
        Self { name: name.to_owned(), client, kept, done: 0 }
    }

    /// Takes the steps, in order. Panics at the first whose response is not as expected.
    pub async fn run(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step).await;
        }
    }

    /// Takes one step and gives its response.
    pub async fn step(&mut self, step: Step) -> Response {
        self.done += 1;
        let mut request = step.request.clone();
        request.target = self.expand(&request.target);
        for (_, value) in &mut request.headers {
            *value = self.expand(value);
        }
        let response = self.client.send(request.clone()).await;
        let wrong = self.differences(&step, &response);
        let (name, number) = (&self.name, self.done);
        assert!(
            wrong.is_empty(),
            "{name}, request {number}: {wrong:#?}\n--- request\n{request}--- response\n{response}"
        );
        for (header, name) in step.kept {
            let value =
                response.header(&header).unwrap_or_else(|| panic!("{}: no {header}", self.name));
            self.kept.insert(name, value.to_owned());
        }
        response
    }

    /// A value kept by an earlier step.
    pub fn kept(&self, name: &str) -> &str {
        &self.kept[name]
    }

    fn expand(&self, text: &str) -> String {
        self.kept.iter().fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{name}}}"), value)
        })
    }

    fn differences(&self, step: &Step, response: &Response) -> Vec<String> {
        let mut wrong = Vec::new();
        if !step.statuses.is_empty() && !step.statuses.contains(&response.status) {
            wrong.push(format!("status {}, not {:?}", response.status, step.statuses));
        }
        for (name, expected) in &step.headers {
            wrong.extend(self.header_difference(name, expected, response.header(name)));
        }
        if let Some(body) = step.body.as_ref().filter(|body| **body != response.body) {
            wrong.push(format!(
                "body of {} bytes, not {}",
                response.body.len(),
                body.escape_ascii()
            ));
        }
        for (pointer, value) in &step.json {
            let actual = response.json().pointer(pointer).cloned().unwrap_or(Value::Null);
            let value = value.as_str().map_or(value.clone(), |text| self.expand(text).into());
            if actual != value {
                wrong.push(format!("{pointer} is {actual}, not {value}"));
            }
        }
        if step.code.is_some()
            && step.request.method != "HEAD"
            && step.code != response.error_code()
        {
            wrong.push(format!("code {:?}, not {:?}", response.error_code(), step.code));
        }
        wrong.extend(step.checks.iter().filter_map(|check| check(response).err()));
        wrong
    }

    fn header_difference(
        &self,
        name: &str,
        expected: &Expected,
        actual: Option<&str>,
    ) -> Option<String> {
        let met = match expected {
            // Whether it is absolute depends on how the server was reached.
            Expected::Exactly(value) if name == "Location" => {
                actual.map(path_of) == Some(path_of(&self.expand(value)))
            }
            Expected::Exactly(value) => actual == Some(&self.expand(value)),
            Expected::Containing(part) => {
                actual.is_some_and(|actual| actual.contains(&self.expand(part)))
            }
            Expected::Absent => actual.is_none(),
        };
        let wanted = match expected {
            Expected::Exactly(value) | Expected::Containing(value) => self.expand(value),
            Expected::Absent => "absent".to_owned(),
        };
        (!met).then(|| format!("{name} is {actual:?}, not {wanted:?}"))
    }
}
