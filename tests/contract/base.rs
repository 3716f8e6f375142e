//! What is not content: the base of the API, health, methods, unknown paths.

use jreg_testkit::{ServerSpec, delete, get, head, patch, post, put, sha256};

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
        get("/openapi.yaml").is(200).satisfies(|answer| {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
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

    c05_host_headers_do_not_reach_the_location: steps![
        post("/v2/{repo}/blobs/uploads/")
            .header("Host", "evil.example")
            .header("X-Forwarded-Host", "evil.example")
            .header("X-Forwarded-Proto", "https")
            .header("Forwarded", "host=evil.example;proto=https")
            .is(202)
            .has_part("Location", "/v2/{repo}/blobs/uploads/"),
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
