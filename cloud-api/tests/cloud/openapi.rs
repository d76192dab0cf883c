//! The API's own description.

use std::path::Path;

use serde_json::Value;

use crate::program::{Server, run};

/// Where the description is kept for those who write clients.
fn committed() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json")
}

#[test]
fn the_committed_description_is_the_one_that_is_served() {
    let output = run(&["openapi"]);
    assert!(output.status.success());
    let now = String::from_utf8(output.stdout).unwrap();
    let kept = std::fs::read_to_string(committed()).unwrap_or_default();
    assert!(
        now == kept,
        "cloud-api/openapi.json is not what the code says: \
         run `ecosight-cloud openapi > cloud-api/openapi.json` and look at the difference"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_described_with_how_it_fails() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let (status, document) = server.json("/openapi.json").await;
    assert_eq!(status, 200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let paths = document["paths"].as_object().unwrap();
    let (_, root) = server.json("/").await;
    let listed: Vec<&str> =
        root["endpoints"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    assert_eq!(listed.len(), paths.len());
    let mut names = std::collections::BTreeSet::new();
    for (path, item) in paths {
        assert!(listed.contains(&path.as_str()), "{path}");
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|s| s.len() > 5), "{what}");
            assert!(operation["tags"][0].is_string(), "{what}");
            let id = operation["operationId"].as_str().unwrap();
            assert!(names.insert(id.to_owned()), "{what}: {id} twice");
            let failure = &operation["responses"]["default"]["content"];
            assert!(failure["application/problem+json"].is_object(), "{what}");
        }
    }
    let reference = |value: &Value| value["$ref"].as_str().map(str::to_owned);
    assert_eq!(
        reference(
            &paths["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        ),
        Some("#/components/schemas/Prediction".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_to_read_it_comes_from_the_server_alone() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let page = server.client().get(server.url("/docs")).send().await.unwrap();
    assert_eq!(page.status().as_u16(), 200);
    let html = page.text().await.unwrap();
    assert!(!html.contains("://"), "{html}");
    for file in ["swagger-ui-bundle.js", "swagger-ui.css", "start.js"] {
        assert!(html.contains(&format!("/docs/{file}")), "{file}");
        let request = server.client().get(server.url(&format!("/docs/{file}")));
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{file}");
        if file != "start.js" {
            assert_eq!(response.headers()["content-encoding"], "gzip");
        }
        assert!(response.bytes().await.unwrap().len() > 100);
    }
    assert_eq!(server.json("/docs/other.js").await.0, 404);
}
