//! Who gets to the control path: by which paths, with which token, with which body.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use tollgate_shared::control::{Control, Found, MAX_BODY, endpoints};

use crate::document;
use crate::host::{Head, Host, TOKEN, code_of, policy};

#[test]
fn no_other_spelling_leads_there() {
    let host = Host::new(&policy());
    for target in [
        "//.tollgate/health",
        "/./.tollgate/health",
        "/../.tollgate/health",
        "/a/../.tollgate/health",
        "/%2etollgate/health",
        "/%2Etollgate/health",
        "/.tollgate%2fhealth",
        "/.tollgate\\health",
        "/.tollgate;a/health",
        "/.Tollgate/health",
        "/.TOLLGATE/health",
        "/.tollgate./health",
        "/.tollgate",
        "/.tollgat/health",
        "/a?/.tollgate/health",
        "?/.tollgate/health",
        ".tollgate/health",
        " /.tollgate/health",
        "http://tollgate.test/.tollgate/health",
        "https://tollgate.test/.tollgate/health",
        "*",
        "",
    ] {
        assert!(host.control.find(&Head::new("GET", target).authorized()).is_none(), "{target}");
    }
}

/// And none of it reaches an upstream.
#[test]
fn below_the_prefix_there_is_nothing_but_what_there_is() {
    let mut host = Host::new(&policy());
    for path in [
        "",
        "health/",
        "health//detailed",
        "health/./detailed",
        "Health",
        "HEALTH",
        "health%2fdetailed",
        "health?",
        "health?a=b",
        "health#a",
        "health;a",
        "health ",
        "health.",
        "../health",
        "..",
        "other",
        "limits",
        "revoke/",
        "health/detailed?token=correct-horse-battery-staple",
    ] {
        let answer = host.get(path);
        assert_eq!(code_of(&answer), (404, "NOT_FOUND".into()), "{path}");
    }
}

#[test]
fn each_path_has_its_method() {
    let mut host = Host::new(&policy());
    for (method, path) in endpoints() {
        for other in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "post", ""] {
            let allowed: &[&str] = if method == "GET" { &["GET", "HEAD"] } else { &["POST"] };
            if allowed.contains(&other) {
                continue;
            }
            let answer = host.send(&Head::new(other, &format!("/.tollgate/{path}")).authorized(), b"");
            assert_eq!(code_of(&answer), (405, "METHOD_NOT_ALLOWED".into()), "{other} {path}");
            assert_eq!(answer.headers.get("allow"), Some(allowed.join(", ").as_str()), "{other} {path}");
        }
    }
}

#[test]
fn everything_but_health_takes_the_token_and_takes_it_once() {
    let mut host = Host::new(&policy());
    let right = format!("Bearer {TOKEN}");
    let wrong: [&[&str]; 12] = [
        &[],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &[TOKEN],
        &["Bearer wrong-horse-battery-staple"],
        &["Bearer correct-horse-battery-stapl"],
        &["Bearer correct-horse-battery-staple1"],
        &["Bearer  correct-horse-battery-staple"],
        &["bearer correct-horse-battery-staple"],
        &["Basic correct-horse-battery-staple"],
        &[&right, &right],
    ];
    for (method, path) in endpoints().filter(|(_, path)| *path != "health") {
        for lines in wrong {
            let mut head = Head::new(method, &format!("/.tollgate/{path}"));
            for line in lines {
                head = head.with("authorization", line);
            }
            let answer = host.send(&head, b"{}");
            assert_eq!(code_of(&answer), (401, "UNAUTHORIZED".into()), "{path}: {lines:?}");
        }
    }
    assert_eq!(host.send(&Head::new("GET", "/.tollgate/health"), b"").status, 200);
    assert_eq!(host.send(&Head::new("HEAD", "/.tollgate/health/detailed").authorized(), b"").status, 200);
}

#[test]
fn a_body_has_its_bound_and_its_fields() {
    let mut host = Host::new(&policy());
    let path = "/.tollgate/locks/acquire";
    let post = || Head::new("POST", path).authorized();
    let full = |length: usize| {
        let body = json!({ "name": "report", "key": ["ada"] }).to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    assert_eq!(host.send(&post(), full(MAX_BODY).as_bytes()).status, 200);
    let too_large = (413, "BODY_TOO_LARGE".to_owned());
    assert_eq!(code_of(&host.send(&post(), full(MAX_BODY + 1).as_bytes())), too_large);
    for length in ["16385", "99999999999999999999999", "-1", "many"] {
        let Some(Found::Answer(answer)) = host.control.find(&post().with("content-length", length)) else {
            panic!("{length} is read")
        };
        assert_eq!(code_of(&answer), too_large, "{length}");
    }
    assert!(matches!(host.control.find(&post().with("content-length", "16384")), Some(Found::Asked(_))));
    for (body, detail) in [
        ("", "The body is wrong: found what cannot be read"),
        ("[]", "The body is wrong: found a list, expected an object"),
        ("{}", "The body is wrong: found no `name`, expected one, it is required."),
        (r#"{"name":"report","key":"ada"}"#, "The body is wrong: key: found \"ada\", expected a list."),
        (r#"{"name":"report","key":["ada",7]}"#, "The body is wrong: key[1]: found"),
        (r#"{"name":"report","holder":"x"}"#, "The body is wrong: holder: found \"x\", expected 32 hex"),
        (r#"{"name":"report","holder":null}"#, "The body is wrong: holder: found null, expected 32 hex"),
        (r#"{"name":"report","lease":"0s"}"#, "The body is wrong: lease: found \"0s\", expected a duration"),
        (r#"{"name":"report","lock":1}"#, "The body is wrong: lock: found unknown field"),
        (
            r#"{"name":"report","issuer":"x"}"#,
            "The body is wrong: issuer: found unknown field `issuer`, expected one of `name`, `key`, `holder`, `lease`.",
        ),
        (r#"{"name":"report","name":"report"}"#, "The body is wrong: name: found duplicate field"),
        (
            r#"{"name":"report"}"#,
            "The body is wrong: key: its key takes a value for each of `header:x-user`.",
        ),
        (r#"{"name":"report","key":["a","b"]}"#, "The body is wrong: key: its key takes a value"),
    ] {
        let answer = host.send(&post(), body.as_bytes());
        assert_eq!(code_of(&answer), (400, "INVALID_BODY".into()), "{body}");
        let found = crate::host::json_of(&answer)["detail"].as_str().unwrap().to_owned();
        assert!(found.starts_with(detail), "{body}: {found}");
    }
}

#[test]
fn a_control_path_needs_a_token_and_a_path_of_its_own() {
    for token in
        ["", "brief", "fifteen-letters", "a token that has spaces in it", "tokens-of-l\u{e9}tters-beyond"]
    {
        let error = Control::new(None, token).unwrap_err();
        assert!(
            error.path == "control.token" && !error.to_string().contains(token) || token.is_empty(),
            "{error}"
        );
    }
    for prefix in
        ["", "/", "//", "/a", "a/", "/a//b/", "/./", "/a/../", "/%61/", "/a b/", "/a?/", "/a;b/", "/\u{e9}/"]
    {
        assert_eq!(Control::new(Some(prefix), TOKEN).unwrap_err().path, "control.prefix", "{prefix}");
    }
    let control = Control::new(Some("/ops/.gate/"), TOKEN).unwrap();
    assert!(control.find(&Head::new("GET", "/ops/.gate/health")).is_some());
    assert!(control.find(&Head::new("GET", "/.tollgate/health")).is_none());
    assert!(!format!("{control:?}").contains(TOKEN));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Nothing that is sent brings it down, and what the description refuses is refused.
    #[test]
    fn any_body_is_answered(
        path in select(endpoints().filter(|(method, _)| *method == "POST").collect::<Vec<_>>()),
        fields in vec((select(&FIELDS[..]), select(&VALUES[..])), 0..5),
        junk in vec(any::<u8>(), 0..40), cut in 0..200_usize, is_damaged in any::<bool>(),
    ) {
        let mut host = Host::new(&policy());
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let mut body = format!("{{{}}}", fields.join(",")).into_bytes();
        if is_damaged {
            body.truncate(cut);
            body.extend(junk);
        }
        let path = format!("/{}", path.1);
        let answer = host.send(&Head::new("POST", &format!("/.tollgate{path}")).authorized(), &body);
        let is_foreseen = serde_json::from_slice(&body).is_ok_and(|body| document::takes(&path, &body));
        prop_assert!(is_foreseen || answer.status == 400, "{}: {answer:?}", String::from_utf8_lossy(&body));
        prop_assert!(matches!(answer.status, 200 | 400 | 404 | 409), "{answer:?}");
    }

    #[test]
    fn any_head_is_answered_or_none_of_ours(
        method in "[A-Z]{0,5}|GET|POST", target in "/\\.tollgate/[a-z/.?%]{0,20}|\\PC{0,20}", authorization in "(Bearer )?\\PC{0,40}",
    ) {
        let mut host = Host::new(&policy());
        let head = Head::new(&method, &target).with("authorization", &authorization);
        prop_assert_eq!(host.control.find(&head).is_some(), target.starts_with("/.tollgate/"));
        if target.starts_with("/.tollgate/") {
            let status = host.send(&head, b"{}").status;
            prop_assert!(status == 200 && target == "/.tollgate/health" || matches!(status, 401 | 404 | 405));
        }
    }
}

const FIELDS: [&str; 9] = ["name", "key", "holder", "lease", "for", "token", "jti", "subject", "issuer"];
const VALUES: [&str; 16] = [
    "\"report\"",
    "\"order\"",
    "\"searches\"",
    "\"shop\"",
    "\"nobody\"",
    "[\"ada\"]",
    "[]",
    "[\"a\",\"b\"]",
    "\"0123456789abcdef0123456789ABCDEF\"",
    "\"0123456789abcdef0123456789abcdeg\"",
    "\"30s\"",
    "\"0ms\"",
    "\"999999999999999999999d\"",
    "\"a.b.c\"",
    "null",
    "7",
];
