//! What a wrong policy is told: where, what was found, what was expected.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is a failed test")]

use serde_json::{Value, json};
use tollgate_shared::config::{PolicyConfig, parse};
use tollgate_shared::policy::Policy;

#[test]
fn a_file_that_is_no_policy() {
    told("{} {}", "found what cannot be read (trailing characters at line 1 column 4), expected valid JSON");
    assert!(parse::<PolicyConfig>("\u{feff} {}".as_bytes()).is_ok());
    for (text, expected) in [
        ("", "an object of JSON instead of nothing"),
        ("\u{feff}\n", "an object of JSON instead of nothing"),
        ("routes:\n  - name: a", "valid JSON, which YAML is not"),
        ("{\"shadow\": // not yet\n true}", "valid JSON, which has no comments"),
        ("{\n  # not yet\n}", "valid JSON, which has no comments"),
        ("// a policy\n{}", "valid JSON, which has no comments"),
        ("{\"shadow\" true}", "valid JSON"),
        // A `Struct`: a map with an entry of a key and a value.
        (
            "\n\u{e}\n\u{6}policy\u{12}\u{4}*\u{2}\n\u{0}",
            "JSON as text; Envoy hands over a `google.protobuf.StringValue` as that, and a `Struct` in binary",
        ),
    ] {
        let error = parse::<PolicyConfig>(text.as_bytes()).unwrap_err();
        assert_eq!(
            (error.found.contains("what cannot be read"), error.expected.as_str()),
            (true, expected),
            "{text:?}"
        );
    }
    told(
        "{",
        "found what cannot be read (EOF while parsing an object at line 1 column 1), expected valid JSON",
    );
    told(
        "{\n  \"routes\": [],\n}",
        "found what cannot be read (trailing comma at line 3 column 1), expected valid JSON",
    );
    told("null", "found null, expected an object");
    told("[]", "found a list, expected an object");
    told(&format!("{{}}{}", " ".repeat(1 << 20)), "found 1048578 bytes, expected at most 1 MiB of JSON");
    told(
        r#"{"shadow": true, "shadow": false}"#,
        "shadow: found duplicate field `shadow`, expected it only once",
    );
}

#[test]
fn places_are_found_whatever_stands_before_them() {
    let routes = r#"{"routes": [{"name": "a}]{,\"\\"}, {"name": "b", "match": {"headers": {"x": true}, "he\u0061ders": 7}}]}"#;
    told(
        routes,
        r#"routes[0].name: found "a}]{,\"\\", expected a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -"#,
    );
    let routes = routes.replace(r#"a}]{,\"\\"#, "a");
    told(&routes, "routes[1].match.headers: found duplicate field `headers`, expected it only once");
    told(
        &routes.replace("\\u0061", "o").replace(", ", ",\n "),
        "routes[1].match.heoders: found unknown field `heoders`, expected one of `methods`, `path`, `hosts`, `headers`",
    );
    told(r#"{"routes": [[], {}]}"#, "routes[0]: found a list, expected an object");
    told(
        r#"{"routes": [ { "name": {} } ]}"#,
        "routes[0].name: found an object, expected a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -",
    );
    told(r#"{"routes": [{}, {}]}"#, "routes[0]: found no `name`, expected one, it is required");
}

/// The library follows a reader along, which is too large for where the core has to be small.
#[test]
fn places_are_those_that_a_library_finds() {
    let policy: Value = serde_json::from_str(include_str!("../../policy.json")).unwrap();
    let mut found = 0;
    for pointer in pointers(&policy) {
        for wrong in [
            json!(null),
            json!(true),
            json!(-7),
            json!(0.5),
            json!("§ \"\\"),
            json!([]),
            json!([{}]),
            json!({}),
            json!({ "§": 1 }),
        ] {
            // In the place of a word, the library does not take the object's key for a place.
            if wrong.get("§").is_some()
                && (pointer.ends_with("algorithm") || pointer.ends_with("on_store_error"))
            {
                continue;
            }
            let mut damaged = policy.clone();
            *damaged.pointer_mut(&pointer).unwrap() = wrong;
            for json in [damaged.to_string(), serde_json::to_string_pretty(&damaged).unwrap()] {
                let Err(error) = parse::<PolicyConfig>(json.as_bytes()) else { continue };
                let mut reader = serde_json::Deserializer::from_str(&json);
                let expected = serde_path_to_error::deserialize::<_, PolicyConfig>(&mut reader).unwrap_err();
                assert_eq!(error.path, expected.path().to_string().trim_matches('.'), "{error}\n{json}");
                found += 1;
            }
        }
    }
    assert!(found > 500, "{found} errors");
}

/// Where every value of a document is, the document itself included.
fn pointers(value: &Value) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
        }
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), field)).collect(),
        _ => Vec::new(),
    };
    let below = inner
        .iter()
        .flat_map(|(name, value)| pointers(value).into_iter().map(move |rest| format!("/{name}{rest}")));
    std::iter::once(String::new()).chain(below).collect()
}

#[test]
fn fields_at_the_top() {
    for (policy, error) in [
        (
            json!({ "route": [] }),
            "route: found unknown field `route`, expected one of `$schema`, `client_ip`, `path_case`, \
             `escaped_slashes`, `headers`, `shadow`, `jwt`, `routes`, `default`",
        ),
        (json!({ "routes": {} }), "routes: found an object, expected a list"),
        (json!({ "routes": [7] }), "routes[0]: found `7`, expected an object"),
        (json!({ "shadow": "yes" }), r#"shadow: found "yes", expected true or false"#),
        (json!({ "path_case": "lower" }), "path_case: found `lower`, expected `sensitive` or `insensitive`"),
        (
            json!({ "escaped_slashes": "keep" }),
            "escaped_slashes: found `keep`, expected `ambiguous` or `kept`",
        ),
        (
            json!({ "headers": { "ietf": 1 } }),
            r#"headers.ietf: found `1`, expected "always", "refusals" or "never""#,
        ),
        (json!({ "client_ip": "connection" }), r#"client_ip: found "connection", expected an object"#),
        (
            json!({ "client_ip": { "from": "x forwarded" } }),
            r#"client_ip.from: found "x forwarded", expected "connection" or the name of a header field such as "x-forwarded-for""#,
        ),
        (
            json!({ "client_ip": { "trusted_hops": 0 } }),
            "client_ip.trusted_hops: found `0`, expected a whole number from 1 to 65535",
        ),
        (
            json!({ "client_ip": { "ipv6_prefix": 129 } }),
            "client_ip.ipv6_prefix: found `129`, expected 1 to 128 bits",
        ),
        (
            json!({ "default": { "name": "x" } }),
            "default.name: found unknown field `name`, expected one of `rate_limits`, `token`, `revocation`, `revokes`, \
             `circuit_breaker`, `idempotency`, `dedup`, `lock`",
        ),
        (
            json!({ "routes": [{ "name": "default" }], "default": {} }),
            "default: found a route named `default` beside it, expected no other route of this name",
        ),
        (
            json!({ "routes": vec![json!({ "name": "a" }); 1001] }),
            "routes: found 1001 entries, expected at most 1000",
        ),
    ] {
        assert_eq!(errors(&policy.to_string())[0], error);
    }
}

#[test]
fn a_route() {
    let name = "expected a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -";
    let path = "expected a path such as \"/login\", \"/api/*\" (the prefix and all below it) or \"/users/*/orders\" \
                (one segment): it starts with /, does not end in /, and has no empty or dot segment, no query or `;`, and * only \
                as a whole segment";
    for (route, error) in [
        (json!({ "match": {} }), ": found no `name`, expected one, it is required".to_owned()),
        (json!({ "name": "a b" }), format!(r#".name: found "a b", {name}"#)),
        (json!({ "name": "é" }), format!(r#".name: found "é", {name}"#)),
        (json!({ "name": "x".repeat(65) }), format!(r#".name: found "{}", {name}"#, "x".repeat(65))),
        (
            json!({ "name": "r", "limits": [] }),
            ".limits: found unknown field `limits`, expected one of `name`, `match`, `rate_limits`, `token`, \
                `revocation`, `revokes`, `circuit_breaker`, `idempotency`, `dedup`, `lock`".to_owned(),
        ),
        (
            json!({ "name": "r", "match": { "methods": ["post"] } }),
            r#".match.methods[0]: found "post", expected a method in capitals such as "POST""#.to_owned(),
        ),
        (
            json!({ "name": "r", "match": { "methods": "POST" } }),
            r#".match.methods: found "POST", expected a list"#.to_owned(),
        ),
        (
            json!({ "name": "r", "match": { "methods": vec!["GET"; 17] } }),
            ".match.methods: found 17 entries, expected at most 16".to_owned(),
        ),
        (json!({ "name": "r", "match": { "path": "login" } }), format!(r#".match.path: found "login", {path}"#)),
        (json!({ "name": "r", "match": { "path": "/a/" } }), format!(r#".match.path: found "/a/", {path}"#)),
        (json!({ "name": "r", "match": { "path": "/a*" } }), format!(r#".match.path: found "/a*", {path}"#)),
        (json!({ "name": "r", "match": { "path": "/a/../b" } }), format!(r#".match.path: found "/a/../b", {path}"#)),
        (json!({ "name": "r", "match": { "path": "/a%2Fb" } }), format!(r#".match.path: found "/a%2Fb", {path}"#)),
        (
            json!({ "name": "r", "match": { "hosts": ["a.example:80"] } }),
            r#".match.hosts[0]: found "a.example:80", expected a host such as "api.example.com" or "*.example.com", without port"#
                .to_owned(),
        ),
        (
            json!({ "name": "r", "match": { "headers": { "x-a": 1 } } }),
            ".match.headers.x-a: found `1`, expected the value to equal (a text of at most 1024 bytes), true (present) or \
             false (absent)"
                .to_owned(),
        ),
        (
            json!({ "name": "r", "match": { "headers": { "x-a": " a" } } }),
            r#".match.headers.x-a: found " a", expected what a field can say: no space around it and no control characters"#
                .to_owned(),
        ),
        (
            json!({ "name": "r", "match": { "headers": { "X-A": true, "x-a": false } } }),
            ".match.headers: found `x-a` twice, expected each name once, in whatever case".to_owned(),
        ),
    ] {
        assert_eq!(errors(&json!({ "routes": [route] }).to_string()), [format!("routes[0]{error}")]);
    }
    let twice = json!({ "routes": [{ "name": "r" }, { "name": "r" }] });
    told(&twice.to_string(), "routes[1].name: found `r`, expected a name that no earlier route has");
}

#[test]
fn a_limit() {
    let whole = "expected a whole number from 1";
    let duration = r#"expected a duration from 1ms to 366d such as "250ms", "60s", "15m", "1h" or "1d""#;
    let part = "expected a key part: client_ip, method, path, route, header:NAME, cookie:NAME, query:NAME, claim:NAME, \
                body:/POINTER or const:TEXT; lower: in front of one that holds text of the client's, as in \
                lower:body:/email";
    let cost = r#"expected a whole number from 1, or an object such as {"header": "x-cost", "max": 10}"#;
    let price = |max: u64, default: u64| json!({ "header": "x", "max": max, "default": default });
    for (field, value, error) in [
        (
            "limit",
            json!(5),
            ".limit: found unknown field `limit`, expected one of `name`, `algorithm`, `quota`, `window`, \
                             `burst`, `key`, `cost`, `count`, `tag`, `on_store_error`, `shadow`"
                .to_owned(),
        ),
        (
            "algorithm",
            json!("leaky_bucket"),
            ".algorithm: found `leaky_bucket`, expected one of `fixed_window`, \
                                              `sliding_window_log`, `sliding_window_counter`, `gcra`"
                .to_owned(),
        ),
        ("quota", json!(0), format!(".quota: found `0`, {whole}")),
        ("quota", json!(-5), format!(".quota: found `-5`, {whole}")),
        ("quota", json!(1.5), format!(".quota: found `1.5`, {whole}")),
        ("quota", json!("5"), format!(r#".quota: found "5", {whole}"#)),
        (
            "quota",
            json!(2_000_000_000),
            ".quota: found `2000000000`, expected at most 1000000000 for `fixed_window` with a \
                                         window of 1m"
                .to_owned(),
        ),
        ("burst", json!(3), ".burst: found `3`, expected no burst: only `gcra` has one".to_owned()),
        ("window", json!("60"), format!(r#".window: found "60", {duration}"#)),
        ("window", json!("1.5s"), format!(r#".window: found "1.5s", {duration}"#)),
        ("window", json!("367d"), format!(r#".window: found "367d", {duration}"#)),
        ("window", json!(60), format!(".window: found `60`, {duration}")),
        ("key", json!("client_ip"), r#".key: found "client_ip", expected a list"#.to_owned()),
        (
            "key",
            json!([]),
            r#".key: found 0 key parts, expected 1 to 8; ["const:all"] counts everybody together"#.to_owned(),
        ),
        (
            "key",
            json!(vec!["path"; 9]),
            r#".key: found 9 key parts, expected 1 to 8; ["const:all"] counts everybody together"#.to_owned(),
        ),
        ("key", json!(["ip"]), format!(r#".key[0]: found "ip", {part}"#)),
        ("key", json!(["path", "body:a"]), format!(r#".key[1]: found "body:a", {part}"#)),
        ("key", json!(["claim:"]), format!(r#".key[0]: found "claim:", {part}"#)),
        ("key", json!(["lower:client_ip"]), format!(r#".key[0]: found "lower:client_ip", {part}"#)),
        ("key", json!(["lower:const:A"]), format!(r#".key[0]: found "lower:const:A", {part}"#)),
        ("key", json!(["lower:lower:path"]), format!(r#".key[0]: found "lower:lower:path", {part}"#)),
        ("key", json!(["body:/a~2"]), format!(r#".key[0]: found "body:/a~2", {part}"#)),
        ("key", json!(["header:"]), format!(r#".key[0]: found "header:", {part}"#)),
        ("key", json!([5]), format!(".key[0]: found `5`, {part}")),
        ("cost", json!(0), format!(".cost: found `0`, {cost}")),
        ("cost", json!("x-cost"), format!(r#".cost: found "x-cost", {cost}"#)),
        ("cost", json!(6), ".cost: found `6`, expected at most 5, or no request could ever pass".to_owned()),
        (
            "cost",
            price(6, 1),
            ".cost.max: found `6`, expected at most 5, or no request could ever pass".to_owned(),
        ),
        ("cost", price(2, 3), ".cost.default: found `3`, expected at most `max`, 2".to_owned()),
        ("cost", json!({ "header": "x" }), ".cost: found no `max`, expected one, it is required".to_owned()),
        (
            "on_store_error",
            json!("open"),
            ".on_store_error: found `open`, expected one of `allow`, `deny`, `local`".to_owned(),
        ),
        (
            "tag",
            json!("{a}"),
            r#".tag: found "{a}", expected a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -"#.to_owned(),
        ),
    ] {
        let mut limit = limit();
        limit[field] = value;
        assert_eq!(errors(&route(&[limit])), [format!("routes[0].rate_limits[0]{error}")]);
    }
}

#[test]
fn what_is_too_much_for_an_algorithm() {
    for (algorithm, window, quota, burst, error) in [
        (
            "sliding_window_log",
            "1m",
            20_000,
            None,
            "quota: found `20000`, expected at most 10000 for `sliding_window_log` with a window of 1m",
        ),
        (
            "gcra",
            "30d",
            500_000,
            None,
            "quota: found `500000`, expected at most 434374 for `gcra` with a window of 30d",
        ),
        (
            "gcra",
            "30d",
            5,
            Some(500_000),
            "burst: found `500000`, expected at most 434374 for `gcra` with a window of 30d",
        ),
        (
            "sliding_window_counter",
            "366d",
            50_000,
            None,
            "quota: found `50000`, expected at most 35604 for `sliding_window_counter` with a window of 366d",
        ),
    ] {
        let mut limit = limit();
        (limit["algorithm"], limit["window"], limit["quota"]) =
            (json!(algorithm), json!(window), json!(quota));
        if let Some(burst) = burst {
            limit["burst"] = json!(burst);
        }
        told(&route(&[limit]), &format!("routes[0].rate_limits[0].{error}"));
    }
}

#[test]
fn limits_that_do_not_go_together() {
    told(
        &route(&[limit(), limit()]),
        "routes[0].rate_limits[1].name: found `a`, expected a name that no other limit of this route has",
    );
    let mut other = limit();
    other["quota"] = json!(6);
    told(
        &route(&[limit(), other]),
        "routes[0].rate_limits[1].name: found `a`, expected a name of its own, or the very fields of the other limit of this \
         name: they are one counter",
    );
    let many: Vec<Value> = (0..17).map(|n| named(&format!("l{n}"))).collect();
    told(&route(&many), "routes[0].rate_limits: found 17 entries, expected at most 16");
    let routes: Vec<Value> = (0..257)
        .map(|r| json!({ "name": format!("r{r}"), "rate_limits": (0..16).map(|n| named(&format!("l{r}.{n}"))).collect::<Vec<_>>() }))
        .collect();
    told(
        &json!({ "routes": routes }).to_string(),
        "rate_limits of all routes: found 4112 entries, expected at most 4096",
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let mut costly = limit();
    (costly["cost"], costly["burst"], costly["key"]) = (json!(9), json!(9), json!([]));
    let found = errors(
        &json!({
            "client_ip": { "ipv6_prefix": 200 },
            "routes": [{ "name": "r", "rate_limits": [costly] }, { "name": "r" }],
        })
        .to_string(),
    );
    let places: Vec<&str> = found.iter().map(|error| error.split(':').next().unwrap()).collect();
    let expected = [
        "client_ip.ipv6_prefix",
        "routes[0].rate_limits[0].key",
        "routes[0].rate_limits[0].burst",
        "routes[0].rate_limits[0].cost",
        "routes[1].name",
    ];
    assert_eq!(places, expected);
}

#[test]
fn what_is_right_is_told_nothing() {
    for policy in [
        json!({}),
        json!({ "$schema": "./policy.schema.json", "routes": [{ "name": "r" }], "default": {} }),
        json!({ "routes": [{ "name": "r", "match": { "headers": { "x-a": true, "x-b": "1", "x-c": false } } }] }),
    ] {
        assert_eq!(errors(&policy.to_string()), [""; 0]);
    }
    assert_eq!(errors(&route(&[limit(), named("b")])), [""; 0]);
}

/// Asserts that a policy gives this one error.
fn told(policy: &str, error: &str) {
    assert_eq!(errors(policy), [error]);
}

fn errors(policy: &str) -> Vec<String> {
    match Policy::from_json(policy.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn route(limits: &[Value]) -> String {
    json!({ "routes": [{ "name": "r", "rate_limits": limits }] }).to_string()
}

fn limit() -> Value {
    named("a")
}

fn named(name: &str) -> Value {
    json!({ "name": name, "algorithm": "fixed_window", "quota": 5, "window": "1m", "key": ["client_ip"] })
}
