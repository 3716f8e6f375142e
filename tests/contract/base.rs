//! The API version check, health, methods and unknown paths.

use jreg_testkit::{
    Response, ServerSpec, Step, delete, get, head, index_of, patch, post, push_manifest, put,
    sha256,
};

/// Starts an upload with this Host.
fn begin_at(host: &str) -> Step {
    post("/v2/{repo}/blobs/uploads/").header("Host", host).is(202)
}

/// Prefix of a Location. The rest is checked for all rows.
fn has_location(start: &'static str) -> impl Fn(&Response) -> Result<(), String> {
    move |response| match response.header("Location") {
        Some(location) if location.starts_with(start) => Ok(()),
        location => Err(format!("Location {location:?} does not begin with {start}")),
    }
}

contract! {
    base_is_200: steps![get("/v2/").is(200), head("/v2/").is(200)];

    health_is_200: steps![
        get("/livez").is(200),
        get("/readyz").is(200),
        get("/health").is(200),
        get("/ready").is(200),
        head("/livez").is(200),
    ];

    metrics_are_text: steps![
        get("/v2/").is(200),
        get("/metrics").is(200).has_part("Content-Type", "text/plain"),
    ];

    openapi_is_served: steps![
        get("/openapi.yaml").is(200).satisfies(|response| {
            let text = String::from_utf8_lossy(&response.body).into_owned();
            if text.contains("openapi: 3.1") { Ok(()) } else { Err("not OpenAPI 3.1".into()) }
        }),
    ];

    unknown_paths_are_404: steps![
        get("/nothing").is(404),
        get("/v2/a/nothing").is(404),
        get("/v2/a/tags").is(404),
        get("/v2/a/blobs").is(404),
        get("/v1/").is(404),
        post("/v2/nothing").is_one_of([404, 405]),
    ];

    methods_that_are_not_allowed_are_405: steps![
        post("/v2/").is(405).code("UNSUPPORTED").has_part("Allow", "GET"),
        delete("/v2/_catalog").is(405).code("UNSUPPORTED"),
        put("/v2/{repo}/tags/list").is(405).code("UNSUPPORTED").has_part("Allow", "GET"),
        patch("/v2/{repo}/manifests/a").is(405).code("UNSUPPORTED").has_part("Allow", "PUT"),
        post("/v2/{repo}/manifests/a").is(405).code("UNSUPPORTED"),
        put("/v2/{repo}/blobs/uploads/").is(405).code("UNSUPPORTED").has_part("Allow", "POST"),
        delete(&format!("/v2/{{repo}}/referrers/{}", sha256(""))).is(405).code("UNSUPPORTED"),
        get("/v2/").method("BREW").is_one_of([405, 501]),
    ];

    /// Over plain HTTP the host may be that of a TLS-terminating proxy, and headers may be forged.
    c05_location_is_a_path_where_the_address_is_not_certain: steps![
        begin_at("evil.example")
            .header("X-Forwarded-Host", "evil.example")
            .header("X-Forwarded-Proto", "https")
            .header("Forwarded", "host=evil.example;proto=https")
            .satisfies(has_location("/v2/")),
        begin_at("registry:5000").satisfies(has_location("/v2/")),
        begin_at("localhost:5000").header("X-Forwarded-Proto", "https").satisfies(has_location("/v2/")),
        begin_at("localhost:5000/../x").satisfies(has_location("/v2/")),
        begin_at("user@127.0.0.1").satisfies(has_location("/v2/")),
    ];

    c05_location_is_absolute_where_the_address_is_certain: steps![
        begin_at("localhost:5000").satisfies(has_location("http://localhost:5000/v2/")).keep("Location", "up"),
        get("{up}").header("Host", "127.0.0.1:81").is(204).satisfies(has_location("http://127.0.0.1:81/v2/")),
        patch("{up}").header("Host", "[::1]:81").body("hello").is(202).satisfies(has_location("http://[::1]:81/v2/")),
        patch("{up}").header("Host", "127.0.0.1").header("Content-Range", "9-9").body("x").is(416)
            .satisfies(has_location("http://127.0.0.1/v2/")),
        put(&format!("{{up}}?digest={}", sha256("hello"))).header("Host", "192.0.2.1").is(201)
            .satisfies(has_location("http://192.0.2.1/v2/")),
        push_manifest("v1", &index_of(&[])).header("Host", "127.0.0.1:5000")
            .satisfies(has_location("http://127.0.0.1:5000/v2/")),
        post(&format!("/v2/{{repo}}/blobs/uploads/?digest={}", sha256("x"))).header("Host", "127.0.0.1").body("x").is(201)
            .satisfies(has_location("http://127.0.0.1/v2/")),
        post(&format!("/v2/elsewhere/blobs/uploads/?mount={}&from={{repo}}", sha256("x"))).header("Host", "127.0.0.1").is(201)
            .satisfies(has_location("http://127.0.0.1/v2/elsewhere/")),
    ];

    warnings_are_sent_as_the_specification_writes_them
        [ServerSpec::with(|s| s.warning = vec!["moving on friday".into()])]: steps![
        get("/v2/").is(200).has("Warning", "299 - \"moving on friday\""),
        get("/v2/{repo}/tags/list").is(404).has("Warning", "299 - \"moving on friday\""),
    ];

    no_warnings_by_default: steps![get("/v2/").is(200).lacks("Warning")];

    request_ids_are_echoed: steps![
        get("/v2/").header("X-Request-ID", "abc-DEF_1.2").is(200).has("X-Request-ID", "abc-DEF_1.2"),
    ];
}
