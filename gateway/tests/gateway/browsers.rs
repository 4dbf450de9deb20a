//! Web pages: what browsers send for them, and a browser.

use std::process::Stdio;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tollgate_tests::{run_dir, tools};

use crate::support::{Client, H2Client, Redis, Server, TOKEN, config, request};

const APP: &str = "https://app.example";
const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";

/// Status and fields of the answer to a request without a token but with these fields.
async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
) -> (u16, hyper::HeaderMap) {
    let mut request = request(method, path, "");
    request.headers_mut().remove("authorization");
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (head, _) = server.client().await.bytes(request).await;
    (head.status.as_u16(), head.headers)
}

fn field<'a>(headers: &'a hyper::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn without_a_token_no_page_of_another_origin_gets_anything_done() {
    let redis = Redis::start().await;
    let server =
        Server::start_with(&redis.url(), &["--no-auth", "--origins", APP, "--hosts", "gateway.example"])
            .await;
    let port = server.address.port();
    let own = format!("127.0.0.1:{port}");
    let origin = format!("http://{own}");
    for (what, fields) in [
        // An image, a script or a style sheet; a link that was followed; a form; `fetch` in each of its modes.
        (
            "image",
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")][..],
        ),
        ("same-site image", &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]),
        (
            "link",
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-user", "?1")],
        ),
        ("form", &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]),
        (
            "fetch",
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "cors"),
                ("origin", "https://evil.example"),
            ],
        ),
        ("older browser", &[("origin", "https://evil.example")]),
        ("sandboxed frame", &[("origin", "null")]),
        ("other port", &[("origin", "http://127.0.0.1:1"), ("sec-fetch-site", "same-site")]),
        ("other scheme", &[("origin", "https://127.0.0.1.evil.example")]),
        // Its name was bound to our address.
        ("rebound", &[("host", "evil.example:8079"), ("origin", "http://evil.example:8079")]),
        ("rebound, by GET", &[("host", "evil.example"), ("user-agent", AGENT)]),
        ("rebound, by what says it is no browser", &[("host", "evil.example")]),
        // Browsers trust no network but loopback enough to say where a request comes from.
        ("image from the network", &[("host", "192.168.1.5:8079"), ("user-agent", AGENT)]),
        // Older browsers never say it.
        ("image of an older browser", &[("user-agent", AGENT)]),
        ("image of an older browser, by name", &[("host", "localhost:8079"), ("user-agent", AGENT)]),
    ] {
        for (method, path) in [
            (Method::GET, "/set/hacked/1"),
            (Method::HEAD, "/set/hacked/1"),
            (Method::POST, "/set/hacked/1"),
            (Method::GET, "/subscribe/x"),
            (Method::GET, "/metrics"),
            (Method::GET, "/health/detailed"),
        ] {
            let fields: Vec<_> = [("host", own.as_str())].iter().chain(fields).copied().collect();
            let (status, headers) = ask(&server, method.clone(), path, &fields).await;
            assert_eq!(status, 403, "{what}: {method} {path}");
            assert_eq!(field(&headers, "access-control-allow-origin"), None, "{what}");
        }
    }
    assert_eq!(server.client().await.get("/get/hacked").await.raw(), (200, r#"{"result":null}"#));
    for (what, fields) in [
        ("curl", &[("user-agent", "curl/8.5.0"), ("accept", "*/*")][..]),
        ("Node", &[("user-agent", "node"), ("sec-fetch-mode", "cors"), ("accept-language", "*")]),
        ("its own page", &[("user-agent", AGENT), ("sec-fetch-site", "same-origin"), ("origin", &origin)]),
        ("a page that may", &[("user-agent", AGENT), ("sec-fetch-site", "cross-site"), ("origin", APP)]),
        ("another name", &[("host", "gateway.example:8079")]),
        ("a container", &[("host", "redis-http:8079")]),
        ("a cluster", &[("host", "tollgate.tollgate.svc.cluster.local:8079")]),
        ("localhost", &[("host", "localhost:8079"), ("user-agent", AGENT), ("sec-fetch-site", "none")]),
    ] {
        let fields: Vec<_> = [("host", own.as_str())].iter().chain(fields).copied().collect();
        assert_eq!(ask(&server, Method::GET, "/ping", &fields).await.0, 200, "{what}");
    }
    // What a browser opens may be what a page has sent it on to, whoever began.
    for (what, fields) in [
        (
            "typed",
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")][..],
        ),
        ("mode", &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")]),
        ("older mode", &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "nested-navigate")]),
        ("frame", &[("sec-fetch-site", "same-origin"), ("sec-fetch-dest", "iframe")]),
        ("object", &[("sec-fetch-site", "none"), ("sec-fetch-dest", "object")]),
        ("form", &[("sec-fetch-site", "same-origin"), ("origin", &origin), ("sec-fetch-mode", "navigate")]),
        (
            "form of a page that may",
            &[("sec-fetch-site", "cross-site"), ("origin", APP), ("sec-fetch-mode", "navigate")],
        ),
    ] {
        let fields: Vec<_> = [("host", own.as_str())].iter().chain(fields).copied().collect();
        for path in ["/set/hacked/1", "/ping", "/subscribe/x", "/monitor"] {
            assert_eq!(ask(&server, Method::GET, path, &fields).await.0, 403, "{what}: {path}");
            assert_eq!(ask(&server, Method::POST, path, &fields).await.0, 403, "{what}: {path}");
        }
        // Somebody looks at what changes nothing, and no page can read it.
        assert_eq!(ask(&server, Method::GET, "/metrics", &fields).await.0, 200, "{what}");
    }
    assert_eq!(server.client().await.get("/get/hacked").await.raw(), (200, r#"{"result":null}"#));
    // Those two tell nothing, and whoever probes may use any name.
    for path in ["/health", "/ready"] {
        let fields = [("host", "probe.example"), ("sec-fetch-site", "cross-site")];
        assert_eq!(ask(&server, Method::GET, path, &fields).await.0, 200);
    }
    // Over HTTP/2 the host is in another place.
    let mut h2 = H2Client::connect(server.address).await;
    for (host, status) in [("evil.example", 403), (own.as_str(), 200)] {
        let mut request = request(Method::GET, &format!("http://{host}/ping"), "");
        request.headers_mut().remove("host");
        assert_eq!(h2.bytes(request).await.0.status.as_u16(), status, "{host}");
    }
}

#[tokio::test]
async fn metrics_on_their_own_address_answer_no_page() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--admin-listen", "127.0.0.1:0", "--origins", APP]).await;
    for path in ["/metrics", "/health/detailed"] {
        for (fields, status) in [
            (&[("sec-fetch-site", "cross-site")][..], 403),
            (&[("origin", APP)], 403),
            (&[("host", "metrics.example:8080")], 200),
            (&[("host", "10.1.2.3:8080"), ("user-agent", "Prometheus/2.42.0")], 200),
        ] {
            let mut asked = request(Method::GET, path, "");
            for (name, value) in fields {
                asked.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            let (head, _) = Client::connect(server.admin.unwrap()).await.bytes(asked).await;
            assert_eq!(head.status.as_u16(), status, "{path} {fields:?}");
        }
    }
}

/// A gateway with a token for pages, one for pages of another origin, and one for none.
async fn serve(redis: &Redis) -> Server {
    let toml = format!(
        "[[tokens]]\nname = 'page'\ntoken_env = 'PAGE_TOKEN'\norigins = ['{APP}', 'http://localhost:3000']\n\
         [[tokens]]\nname = 'other'\ntoken_env = 'OTHER_TOKEN'\norigins = ['https://other.example']\n\
         [[tokens]]\nname = 'plain'\ntoken_env = 'PLAIN_TOKEN'\n"
    );
    let path =
        std::env::temp_dir().join(format!("tollgate-pages-{}.toml", crate::support::free_port().await));
    std::fs::write(&path, toml).unwrap();
    let config = config(&redis.url(), &["--config", path.to_str().unwrap()]);
    std::fs::remove_file(path).unwrap();
    Server::start_configured(config).await
}

#[tokio::test]
async fn a_page_may_use_the_tokens_that_are_for_its_origin() {
    let redis = Redis::start().await;
    let server = serve(&redis).await;
    for path in ["/", "/pipeline", "/set/k/v", "/multi-exec"] {
        let fields = [
            ("origin", APP),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,upstash-telemetry-sdk"),
        ];
        let (status, headers) = ask(&server, Method::OPTIONS, path, &fields).await;
        assert_eq!((status, field(&headers, "access-control-allow-origin")), (204, Some(APP)), "{path}");
        assert_eq!(field(&headers, "access-control-allow-headers"), Some("authorization, *"));
        assert!(field(&headers, "access-control-allow-methods").unwrap().contains("POST"));
        assert_eq!((field(&headers, "vary"), field(&headers, "content-type")), (Some("origin"), None));
    }
    for fields in [
        &[("origin", "https://evil.example"), ("access-control-request-method", "POST")][..],
        &[("access-control-request-method", "POST")],
        &[("origin", APP)],
    ] {
        let (status, headers) = ask(&server, Method::OPTIONS, "/", fields).await;
        assert_eq!((status, field(&headers, "access-control-allow-methods")), (405, None), "{fields:?}");
    }
    for (token, origin, path, status, shared) in [
        ("token-of-page", Some(APP), "/ping", 200, true),
        ("token-of-page", Some("http://localhost:3000"), "/ping", 200, true),
        ("token-of-page", Some(APP), "/nosuch", 400, true),
        ("token-of-page", Some(APP), "/subscribe/", 400, true),
        ("token-of-page", Some(APP), "/metrics", 200, true),
        ("token-of-page", None, "/ping", 200, false),
        ("token-of-page", Some("https://other.example"), "/ping", 403, false),
        ("token-of-page", Some("https://app.example.evil.example"), "/ping", 403, false),
        ("token-of-page", Some("null"), "/ping", 403, false),
        ("token-of-page", Some("https://other.example"), "/subscribe/x", 403, false),
        ("token-of-other", Some("https://other.example"), "/ping", 200, true),
        ("token-of-other", Some(APP), "/ping", 403, false),
        ("token-of-page", Some("https://other.example"), "/metrics", 403, false),
        ("token-of-page", Some("https://other.example"), "/health/detailed", 403, false),
        // As for those who have no token.
        ("token-of-page", Some("https://other.example"), "/ready", 200, false),
        // A page reads why it was refused.
        ("wrong", Some(APP), "/ping", 401, true),
        ("wrong", Some("https://evil.example"), "/ping", 401, false),
        ("token-of-plain", Some(APP), "/ping", 200, false),
        ("token-of-plain", None, "/ping", 200, false),
    ] {
        let bearer = format!("Bearer {token}");
        let fields: Vec<_> = [("authorization", bearer.as_str())]
            .into_iter()
            .chain(origin.map(|origin| ("origin", origin)))
            .collect();
        let (found, headers) = ask(&server, Method::GET, path, &fields).await;
        assert_eq!(found, status, "{token} {origin:?} {path}");
        let allowed = field(&headers, "access-control-allow-origin");
        assert_eq!(allowed, origin.filter(|_| shared), "{token} {origin:?} {path}");
        assert_eq!(field(&headers, "vary"), Some("origin"));
        assert_eq!(field(&headers, "access-control-allow-credentials"), None);
    }
    // Nothing changes where no token is for pages.
    let server = Server::start(&redis).await;
    let (status, headers) = ask(&server, Method::OPTIONS, "/", &[("origin", APP)]).await;
    assert_eq!((status, field(&headers, "vary")), (405, None));
}

/// A server of one page.
async fn page(html: String) -> u16 {
    let fields = format!("content-type: text/html; charset=utf-8\r\ncontent-length: {}", html.len());
    answers(format!("HTTP/1.1 200 OK\r\n{fields}\r\nconnection: close\r\n\r\n{html}")).await
}

/// A server that always says this.
async fn answers(text: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let text = text.clone();
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(text.as_bytes()).await;
            });
        }
    });
    port
}

/// What the page has written about itself when a browser has looked at it.
async fn look_at(url: &str) -> Value {
    let dir = run_dir::create().unwrap();
    let profile = format!("--user-data-dir={}", dir.display());
    let mut browser = Command::new(tools::chromium().unwrap());
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-extensions",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
        ])
        .args([&profile, "--timeout=40000", "--virtual-time-budget=20000", "--dump-dom", url])
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let run = timeout(Duration::from_secs(60), browser.output()).await.expect("the browser ends").unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let told = text.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>"));
    serde_json::from_str(told.unwrap_or_else(|| panic!("nothing is told: {text}")).0).unwrap()
}

/// A page that does these things, one after the other, and tells what came of each.
fn html(things: &[String]) -> String {
    let things = things.join(",\n");
    format!(
        "<!doctype html><body><script>(async () => {{
            const told = [];
            for (const thing of [{things}]) {{
                try {{ told.push(await thing()); }} catch (error) {{ told.push('failed'); }}
            }}
            const pre = document.createElement('pre');
            pre.textContent = JSON.stringify(told);
            document.body.append(pre);
        }})()</script>"
    )
}

#[tokio::test]
async fn a_browser_lets_a_page_use_its_token_and_no_other_page() {
    let redis = Redis::start().await;
    // The port of the page is known before the gateway is: it is told the gateway's address by its query.
    let asks = |token: &str, call: &str| {
        format!(
            "async () => {{
                const gateway = 'http://127.0.0.1:' + location.search.slice(1);
                const headers = {{ authorization: 'Bearer {token}', 'content-type': 'application/json', 'upstash-telemetry-sdk': 'x' }};
                const answer = await fetch(gateway + '/', {{ method: 'POST', headers, body: JSON.stringify({call}) }});
                return [answer.status, await answer.json(), answer.headers.has('upstash-sync-token')];
            }}"
        )
    };
    let things = [
        asks(TOKEN, "['SET', 'page', 'é']"),
        asks(TOKEN, "['GET', 'page']"),
        asks(TOKEN, "['NOSUCH']"),
        asks("wrong", "['PING']"),
    ];
    let port = page(html(&things)).await;
    let origin = format!("http://localhost:{port}");
    let server = Server::start_with(&redis.url(), &["--origins", &origin]).await;
    let told = look_at(&format!("{origin}/?{}", server.address.port())).await;
    assert_eq!(told[0], json!([200, { "result": "OK" }, true]), "{told}");
    assert_eq!(told[1], json!([200, { "result": "é" }, true]), "{told}");
    assert_eq!(told[2][0], 400, "{told}");
    assert!(told[2][1]["error"].as_str().unwrap().starts_with("ERR unknown command"), "{told}");
    assert_eq!(
        told[3],
        json!([401, { "error": "WRONGPASS invalid or missing auth token" }, false]),
        "{told}"
    );
    // The same page at another origin.
    let told = look_at(&format!("http://127.0.0.1:{port}/?{}", server.address.port())).await;
    assert_eq!(told, json!(["failed", "failed", "failed", "failed"]));
}

#[tokio::test]
async fn a_browser_does_nothing_for_a_page_at_a_gateway_without_a_token() {
    let redis = Redis::start().await;
    let server = Server::start_with(&redis.url(), &["--no-auth"]).await;
    let mut things = Vec::new();
    for gateway in ["127.0.0.1", "localhost"] {
        let gateway = format!("http://{gateway}:{}", server.address.port());
        things.push(format!("async () => (await fetch('{gateway}/set/a/1')).status"));
        things.push(format!("async () => (await fetch('{gateway}/set/b/1', {{ mode: 'no-cors' }})).type"));
        things.push(format!(
            "async () => (await fetch('{gateway}/', {{ mode: 'no-cors', method: 'POST', body: '[\"SET\",\"c\",1]' }})).type"
        ));
        things.push(format!(
            "() => new Promise((resolve) => {{
                const image = new Image();
                image.onerror = image.onload = () => resolve('image');
                image.src = '{gateway}/set/d/1';
            }})"
        ));
    }
    let port = page(html(&things)).await;
    let told = look_at(&format!("http://localhost:{port}/")).await;
    // The page was looked at, and its requests were sent.
    assert_eq!(told.as_array().unwrap().len(), things.len(), "{told}");
    assert_eq!(told[3], "image", "{told}");
    // Somebody follows a link from a mail, or types an address: to the browser that is no page's
    // doing, wherever it is sent on to.
    let gateway = format!("http://127.0.0.1:{}/set/e/1", server.address.port());
    let fields = "content-length: 0\r\nconnection: close";
    let port = answers(format!("HTTP/1.1 302 Found\r\nlocation: {gateway}\r\n{fields}\r\n\r\n")).await;
    let told = look_at(&format!("http://localhost:{port}/")).await;
    assert!(told["error"].as_str().unwrap_or_default().starts_with("ERR a browser may not"), "{told}");
    assert_eq!(redis.ask(&["DBSIZE"]).await, "Ok(int(0))");
    let (_, metrics) = server.client().await.bytes(request(Method::GET, "/metrics", "")).await;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    let refused =
        metrics.lines().find_map(|line| line.strip_prefix("tollgate_gateway_errors_total{kind=\"origin\"} "));
    assert!(refused.unwrap().parse::<u64>().unwrap() >= 6, "{metrics}");
}
