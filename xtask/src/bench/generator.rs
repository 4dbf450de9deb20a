//! Load generators: what they are told, and what they saw.

use anyhow::{Context as _, Result};

/// What the load generator saw.
#[derive(Debug)]
pub(super) struct Wrk {
    pub(super) requests: u64,
    pub(super) not_ok: u64,
    pub(super) requests_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// `GET url` over that many connections for that long.
pub(super) async fn wrk(url: &str, seconds: u64, connections: u32) -> Result<Wrk> {
    let (connections, duration) = (format!("-c{connections}"), format!("-d{seconds}s"));
    let output = tokio::process::Command::new("wrk")
        .args(["-t1", &connections, &duration, "--latency", url])
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |mark: &str| text.split(mark).nth(1).map(str::trim_start);
    let number = |mark: &str| -> Result<f64> {
        let rest = after(mark).with_context(|| format!("no `{mark}` in\n{text}"))?;
        Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
    };
    // Of the lines of the latency distribution: `     50%    1.26ms`.
    let millis = |mark: &str| -> Result<f64> {
        let word = text.lines().find_map(|line| line.trim().strip_prefix(mark)).context("no latency")?.trim();
        let split = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let value: f64 = word[..split].parse()?;
        Ok(match &word[split..] {
            "us" => value / 1000.0,
            "s" => value * 1000.0,
            _ => value,
        })
    };
    let total = text
        .lines()
        .find_map(|line| line.trim().strip_suffix("read").and_then(|l| l.split(" requests in").next()));
    Ok(Wrk {
        requests: total.context("no total")?.trim().parse()?,
        not_ok: number("Non-2xx or 3xx responses:").unwrap_or(0.0) as u64,
        requests_per_second: number("Requests/sec:")?,
        p50_ms: millis("50%")?,
        p99_ms: millis("99%")?,
    })
}
