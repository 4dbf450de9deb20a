//! Load generators: what they are told, what they saw, and what they cost.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

/// What a load generator saw.
#[derive(Debug)]
pub(super) struct Run {
    /// Requests answered; of `redis-benchmark`, commands.
    pub(super) requests: u64,
    /// Those whose status was none of success.
    pub(super) not_ok: u64,
    pub(super) elapsed: Duration,
    /// Of a request, and of all commands that were sent together.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// What the generator itself used.
    pub(super) cpu: Duration,
}

impl Run {
    pub(super) fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

/// `GET url` with these header lines over that many connections for that long, by wrk.
pub(super) async fn wrk(url: &str, headers: &[&str], seconds: u64, connections: u32) -> Result<Run> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency"]);
    for header in headers {
        wrk.args(["-H", header]);
    }
    wrk.arg(url);
    let (text, cpu) = run(wrk).await?;
    // Of the lines of the latency distribution: `     50%    1.26ms`.
    let line = |mark: &str| text.lines().find_map(|line| line.trim().strip_prefix(mark));
    let millis = |mark: &str| unit(line(mark)?.trim()).map(|seconds| seconds * 1e3);
    let total = text.lines().find_map(|line| line.trim().strip_suffix("read")?.split_once(" requests in "));
    let read = || {
        let (requests, rest) = total?;
        Some(Run {
            requests: requests.trim().parse().ok()?,
            not_ok: after(&text, "Non-2xx or 3xx responses:").unwrap_or(0.0) as u64,
            elapsed: Duration::from_secs_f64(unit(rest.split(',').next()?)?),
            p50_ms: millis("50%")?,
            p99_ms: millis("99%")?,
            cpu,
        })
    };
    read().with_context(|| format!("wrk wrote something else than expected:\n{text}"))
}

/// What h2load sends.
#[derive(Debug)]
pub(super) struct H2load {
    pub(super) url: String,
    /// Instead of HTTP/1.1.
    pub(super) h2c: bool,
    pub(super) connections: u32,
    /// Requests under way on each connection.
    pub(super) streams: u32,
    pub(super) seconds: u64,
    /// The file whose content is posted; without one, `GET`.
    pub(super) body: Option<PathBuf>,
    pub(super) headers: Vec<String>,
    /// Where it may leave a line for each answer.
    pub(super) log: PathBuf,
}

/// One thread of h2load; the percentiles are those of its own record of every answer.
pub(super) async fn h2load(load: &H2load) -> Result<Run> {
    let mut h2load = Command::new("h2load");
    h2load.args(["-t", "1", "-c", &load.connections.to_string(), "-m", &load.streams.to_string()]);
    h2load.args(["-D", &load.seconds.to_string()]).arg(format!("--log-file={}", load.log.display()));
    h2load.args(if load.h2c { ["--no-tls-proto=h2c"] } else { ["--h1"] });
    for header in &load.headers {
        h2load.args(["-H", header]);
    }
    if let Some(body) = &load.body {
        h2load.arg("-d").arg(body);
    }
    h2load.arg(&load.url);
    // It appends.
    let _ = std::fs::remove_file(&load.log);
    let (text, cpu) = run(h2load).await?;
    let log = std::fs::read_to_string(&load.log).unwrap_or_default();
    // `start in µs since the epoch, status, µs`, between tabs.
    let mut micros: Vec<u64> = log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    micros.sort_unstable();
    let quantile = |share: f64| micros.get((micros.len() as f64 * share) as usize).map(|us| *us as f64 / 1e3);
    let read = || {
        let counts = text.lines().find(|line| line.starts_with("requests: "))?;
        let count = |word: &str| before(counts, word).map(|count| count as u64);
        let statuses = text.lines().find(|line| line.starts_with("status codes: "))?;
        let (done, ok) = (count(" done")?, before(statuses, " 2xx")? as u64);
        let elapsed = text.lines().find_map(|line| line.strip_prefix("finished in "))?.split(',').next()?;
        Some(Run {
            requests: done,
            not_ok: done.saturating_sub(ok) + count(" errored")? + count(" timeout")?,
            elapsed: Duration::from_secs_f64(unit(elapsed)?),
            p50_ms: quantile(0.5)?,
            p99_ms: quantile(0.99)?,
            cpu,
        })
    };
    read().with_context(|| format!("h2load wrote something else than expected:\n{text}"))
}

/// One thread of redis-benchmark, which ends at the first error. In `command`, `__rand_int__` is a number of twelve
/// digits below `depth`.
pub(super) async fn redis_benchmark(
    port: u16,
    connections: u32,
    depth: usize,
    commands: u64,
    command: &[String],
) -> Result<Run> {
    let mut benchmark = Command::new("redis-benchmark");
    let numeric = [u64::from(port), u64::from(connections), depth as u64, commands, depth as u64];
    for (flag, value) in ["-p", "-c", "-P", "-n", "-r"].iter().zip(numeric) {
        benchmark.args([*flag, &value.to_string()]);
    }
    benchmark.arg("--csv").args(command);
    let (text, cpu) = run(benchmark).await?;
    // `"GET key","rate","average","minimum","p50","p95","p99","maximum"`; the command may hold anything.
    let last = text.lines().last().unwrap_or_default();
    let numbers: Vec<f64> =
        last.rsplit(',').map_while(|field| field.trim_matches('"').parse().ok()).take(7).collect();
    let &[_, p99_ms, _, p50_ms, _, _, rate] = numbers.as_slice() else {
        anyhow::bail!("redis-benchmark wrote something else than expected:\n{text}")
    };
    let elapsed = Duration::from_secs_f64(commands as f64 / rate);
    Ok(Run { requests: commands, not_ok: 0, elapsed, p50_ms, p99_ms, cpu })
}

/// The processor time that everything on this machine has used so far, and what a hypervisor has withheld.
pub(super) fn machine_busy() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    // `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are users as well.
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).map(str::parse::<u64>);
    let ticks = fields.collect::<Result<Vec<_>, _>>()?;
    ticks_to_time([0, 1, 2, 5, 6, 7].iter().filter_map(|field| ticks.get(*field)).sum())
}

/// Runs it to its end; what it wrote, and the processor time it used.
async fn run(mut command: Command) -> Result<(String, Duration)> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let used = children_cpu()?;
    let ending = timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let ending = ending.with_context(|| format!("{name} did not end within {PATIENCE:?}"))?;
    let Output { status, stdout, stderr } = ending.with_context(|| format!("cannot run `{name}`"))?;
    let cpu = children_cpu()?.saturating_sub(used);
    let error = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{name} ended with {status}:\n{error}");
    Ok((String::from_utf8_lossy(&stdout).into_owned(), cpu))
}

/// The processor time of all children that have ended and been waited for: during a measurement, the generator alone.
fn children_cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in parentheses and may hold anything; cutime and cstime are 16 and 17.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(13).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    ticks_to_time(ticks)
}

fn ticks_to_time(ticks: u64) -> Result<Duration> {
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// Reads `1.26ms` as seconds.
fn unit(text: &str) -> Option<f64> {
    let text = text.trim();
    let (value, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    value.parse::<f64>().ok().map(|value| value * factor)
}

/// The number that follows `mark`.
fn after(text: &str, mark: &str) -> Option<f64> {
    text.split_once(mark)?.1.split_whitespace().next()?.parse().ok()
}

/// The number in front of `mark`.
fn before(text: &str, mark: &str) -> Option<f64> {
    text.split_once(mark)?.0.rsplit([' ', ',']).next()?.parse().ok()
}

/// Longer than any measurement: redis-benchmark never gives up on a server that is not there.
const PATIENCE: Duration = Duration::from_mins(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(unit("1.5ms"), Some(0.0015));
        assert_eq!(unit(" 3.00s"), Some(3.0));
        assert_eq!(unit("12us"), Some(12e-6));
        assert_eq!(unit("12"), None);
    }

    #[test]
    fn numbers_are_found_by_their_neighbours() {
        let line = "requests: 86738 total, 86802 started, 86738 done, 86730 succeeded, 8 failed, 0 errored";
        assert_eq!(before(line, " done"), Some(86738.0));
        assert_eq!(before(line, " errored"), Some(0.0));
        assert_eq!(before(line, " elsewhere"), None);
        assert_eq!(after("  Non-2xx or 3xx responses: 12\n", "responses:"), Some(12.0));
    }
}
