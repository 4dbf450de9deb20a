//! Answers held against what a step expects of them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::adapter::Answer;
use crate::format::{FieldExpectation, Numbers, Step};
use crate::request::UpstreamReply;

/// Whether it was let through or refused, as it must be.
pub(crate) fn verdict(answer: &Answer, refused: bool) -> Result<(), String> {
    match (refused, answer.passed) {
        (false, true) | (true, false) => Ok(()),
        (false, false) => Err(format!("expected it to pass, got {} {}", answer.status, answer.body.trim())),
        (true, true) => Err("expected it to be refused, but it passed".to_owned()),
    }
}

/// Everything else.
pub(crate) fn details(answer: &Answer, step: &Step, refused: bool) -> Result<(), String> {
    let expect = &step.expect;
    for (name, expectation) in &expect.seen {
        field(&format!("`{name}` at the upstream"), expectation, answer.seen(name))?;
    }
    if !refused && step.ask.upstream == UpstreamReply::Hangs {
        return Ok(());
    }
    let usual = match step.ask.upstream {
        UpstreamReply::Answers { status, .. } if !refused => status,
        _ => 429,
    };
    equal("status", &expect.status.unwrap_or(usual), &answer.status)?;
    let degraded = answer.header("x-tollgate-degraded").unwrap_or_default();
    equal("degraded", expect.degraded.as_deref().unwrap_or_default(), degraded.as_str())?;
    if let Some(route) = &expect.route {
        equal("route", &if route.is_empty() { Vec::new() } else { vec![route.clone()] }, &names(answer))?;
    }
    if let Some(numbers) = &expect.remaining {
        equal_numbers("remaining", numbers, &parameters(answer, 'r'))?;
    }
    if let Some(numbers) = &expect.reset {
        equal_numbers("reset", numbers, &parameters(answer, 't'))?;
    }
    if let Some(seconds) = expect.retry_after {
        equal("retry-after", &seconds.to_string(), &answer.header("retry-after").unwrap_or_default())?;
    }
    for (name, expectation) in &expect.answer {
        field(&format!("`{name}`"), expectation, answer.header(name))?;
    }
    if let Some(fields) = &expect.fields {
        let mut expected = fields.clone();
        expected.sort();
        equal("fields", &expected, &own_fields(answer, refused))?;
    }
    if let Some(body) = &expect.body {
        let found: Value = serde_json::from_str(&answer.body)
            .map_err(|error| format!("expected a body of JSON, got `{}` ({error})", answer.body))?;
        equal("body", body, &found)?;
    }
    Ok(())
}

fn field(name: &str, expectation: &FieldExpectation, found: Option<String>) -> Result<(), String> {
    match (expectation, found) {
        (FieldExpectation::Equals(value), found) => equal(name, value, &found.unwrap_or_default()),
        (FieldExpectation::Present(true), None) => Err(format!("expected a field {name}, got none")),
        (FieldExpectation::Present(false), Some(found)) => {
            Err(format!("expected no field {name}, got `{found}`"))
        }
        (FieldExpectation::Present(_), _) => Ok(()),
    }
}

fn equal<T: PartialEq + std::fmt::Debug + ?Sized>(what: &str, expected: &T, got: &T) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("expected {what} {expected:?}, got {got:?}")) }
}

fn equal_numbers(what: &str, expected: &Numbers, got: &BTreeMap<String, u64>) -> Result<(), String> {
    match expected {
        Numbers::ByName(expected) => equal(what, expected, got),
        Numbers::Only(number) if got.len() == 1 => equal(what, &vec![number], &got.values().collect()),
        Numbers::Only(number) => Err(format!("expected {what} {number} of one limit, got {got:?}")),
    }
}

/// One parameter of each item of `RateLimit`, such as `"burst";r=42;t=18`.
fn parameters(answer: &Answer, parameter: char) -> BTreeMap<String, u64> {
    let field = answer.header("ratelimit").unwrap_or_default();
    let items = field.split(',').filter_map(|item| {
        let mut parts = item.trim().split(';');
        let name = parts.next()?.trim_matches('"').to_owned();
        let value = parts.find_map(|part| part.strip_prefix(parameter)?.strip_prefix('='))?;
        Some((name, value.parse().ok()?))
    });
    items.collect()
}

/// The names in `RateLimit-Policy`.
fn names(answer: &Answer) -> Vec<String> {
    let field = answer.header("ratelimit-policy").unwrap_or_default();
    let items = field.split(',').filter_map(|item| item.trim().split(';').next());
    items.filter(|name| !name.is_empty()).map(|name| name.trim_matches('"').to_owned()).collect()
}

/// The lines of the fields that Tollgate sets, in alphabetical order. On what passes, the content type is not ours.
fn own_fields(answer: &Answer, refused: bool) -> Vec<String> {
    let ours = |name: &str| {
        name.starts_with("ratelimit")
            || name.starts_with("x-ratelimit-")
            || matches!(name, "retry-after" | "www-authenticate" | "x-tollgate-degraded")
            || (refused && name == "content-type")
    };
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.sort();
    lines
}
