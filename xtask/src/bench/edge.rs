//! What the Worker costs, beside a Worker that guards nothing and Workers that guard with `@upstash/ratelimit`.
//!
//! Every contender has a workerd of its own, in front of one nginx; those with a store ask one gateway with one Redis.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tollgate_tests::gateway::Gateway;
use tollgate_tests::metrics::Metrics;
use tollgate_tests::redis::Redis;
use tollgate_tests::workerd::{Options as WorkerdOptions, Worker, Workerd};
use tollgate_tests::{client, ports, run_dir, tools};

use super::generator::wrk;
use super::{Options, median, origin, programs};
use crate::{build, setup};

/// Builds what is measured, measures it, prints the tables and writes them to `target/bench-edge.md`.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    setup::run()?;
    setup::edge_tools()?;
    programs::require(&[programs::WRK, programs::NGINX], options.install)?;
    build::worker()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(options))?;
    println!("\n{report}");
    let path = tools::target_dir().join("bench-edge.md");
    fs::write(&path, report)?;
    println!("written to {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// A Worker that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    /// Sends everything on.
    Bare,
    /// Decides from its own memory.
    Memory,
    /// Asks the store about so many limits.
    Store(usize),
    /// Asks `@upstash/ratelimit` about so many limits, all at once or one after the other.
    Ratelimit { limits: usize, at_once: bool },
}

/// What one measurement gave.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Microseconds of CPU per request: workerd, gateway, Redis.
    cpu: [f64; 3],
    /// Requests to the store, for each request.
    calls: f64,
}

/// One row: a contender and its workerd.
struct Row {
    contender: Contender,
    workerd: Workerd,
    samples: Vec<Sample>,
}

impl Contender {
    const ALL: [Contender; 7] = [
        Contender::Bare,
        Contender::Memory,
        Contender::Store(1),
        Contender::Ratelimit { limits: 1, at_once: false },
        Contender::Store(3),
        Contender::Ratelimit { limits: 3, at_once: false },
        Contender::Ratelimit { limits: 3, at_once: true },
    ];

    fn name(self) -> String {
        let limits = |count| if count == 1 { "one limit".to_owned() } else { format!("{count} limits") };
        match self {
            Contender::Bare => "JavaScript, no limit".to_owned(),
            Contender::Memory => "Tollgate, memory, one limit".to_owned(),
            Contender::Store(count) => format!("Tollgate, {}", limits(count)),
            Contender::Ratelimit { limits: 1, .. } => "@upstash/ratelimit, one limit".to_owned(),
            Contender::Ratelimit { limits: count, at_once } => {
                let how = if at_once { "at once" } else { "one after the other" };
                format!("@upstash/ratelimit, {} {how}", limits(count))
            }
        }
    }

    /// How many calls to the store a request may make at most; the least is one for who has a store.
    fn most_calls(self) -> f64 {
        match self {
            Contender::Bare | Contender::Memory => 0.0,
            Contender::Store(_) => 1.0,
            Contender::Ratelimit { limits, .. } => limits as f64,
        }
    }

    fn modules(self, dir: &Path) -> Result<PathBuf> {
        let script = match self {
            Contender::Memory | Contender::Store(_) => return tools::worker(),
            Contender::Bare => "bench_bare",
            Contender::Ratelimit { .. } => "bench_ratelimit",
        };
        let modules = dir.join(script);
        let clients = tools::js_clients()?;
        let mut esbuild = Command::new(tools::esbuild()?);
        esbuild.arg(clients.join(format!("{script}.mjs"))).args(["--bundle", "--format=esm", "--minify"]);
        esbuild.arg(format!("--outfile={}", modules.join("index.js").display()));
        let bundled = esbuild.output()?;
        ensure!(bundled.status.success(), "{}", String::from_utf8_lossy(&bundled.stderr));
        Ok(modules)
    }

    fn variables(self, store: &str, number: usize) -> Vec<(String, String)> {
        let store =
            [("UPSTASH_REDIS_REST_URL", store.to_owned()), ("UPSTASH_REDIS_REST_TOKEN", TOKEN.to_owned())];
        let variables: Vec<(&str, String)> = match self {
            Contender::Bare => Vec::new(),
            Contender::Memory => vec![("TOLLGATE_POLICY", policy(1).to_string())],
            Contender::Store(limits) => {
                let own = [
                    ("TOLLGATE_POLICY", policy(limits).to_string()),
                    ("TOLLGATE_KEY_PREFIX", format!("bench{number}")),
                ];
                store.into_iter().chain(own).collect()
            }
            Contender::Ratelimit { limits, at_once } => {
                let at_once = if at_once { "yes" } else { "" };
                store
                    .into_iter()
                    .chain([("LIMITS", limits.to_string()), ("AT_ONCE", at_once.to_owned())])
                    .collect()
            }
        };
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

async fn measure(options: &Options) -> Result<String> {
    let dir = run_dir::create()?;
    let redis = Redis::start(&dir, ports::free()?).await?;
    let gateway = Gateway::start(&dir, ports::free()?, &redis.url(), TOKEN).await?;
    let (_nginx, origin) = origin::start(&dir).await?;
    let mut rows = Vec::new();
    for (number, contender) in Contender::ALL.into_iter().enumerate() {
        if options.only.as_ref().is_some_and(|only| !contender.name().contains(only.as_str())) {
            continue;
        }
        let mut worker = Worker::new([("ORIGIN_URL", format!("http://{origin}"))])?;
        worker.variables.extend(contender.variables(&format!("http://{}", gateway.address()), number));
        let workerd = WorkerdOptions {
            name: format!("bench-{number}"),
            modules: contender.modules(&dir)?,
            workers: vec![worker],
        };
        let workerd = Workerd::start(&dir, &workerd).await?;
        rows.push(Row { contender, workerd, samples: Vec::new() });
    }
    for round in 1..=options.rounds {
        for row in &mut rows {
            let sample = sample(options, row, &gateway, &redis).await?;
            println!(
                "round {round}: {:<46} {:>8.0} requests/s",
                row.contender.name(),
                sample.requests_per_second
            );
            row.samples.push(sample);
        }
    }
    Ok(table(options, &rows))
}

async fn sample(options: &Options, row: &Row, gateway: &Gateway, redis: &Redis) -> Result<Sample> {
    let Row { contender, workerd, .. } = row;
    let address = workerd.addresses().first().context("there is a Worker")?;
    let url = format!("http://{address}/bench");
    // The first requests fill connection pools and compile JavaScript.
    wrk(&url, &[], 1, options.connections).await?;
    check(*contender, &client::get(*address, "/bench", &[("cf-connecting-ip", "192.0.2.1")]).await?)?;
    let used =
        || -> Result<[Duration; 3]> { Ok([workerd.cpu_time()?, gateway.cpu_time()?, redis.cpu_time()?]) };
    let before = (used()?, calls(gateway).await?);
    let run = wrk(&url, &[], options.seconds, options.connections).await?;
    let after = (used()?, calls(gateway).await?);
    let name = contender.name();
    ensure!(run.not_ok == 0, "{name}: {} of {} answers were refusals", run.not_ok, run.requests);
    let requests = run.requests.max(1) as f64;
    let calls = (after.1 - before.1) / requests;
    // What was under way in the end called without being answered.
    let most = contender.most_calls();
    let slack = f64::from(options.connections) * most.max(1.0) * 2.0 / requests;
    ensure!(
        (most.min(1.0)..=most + slack + 0.01).contains(&calls),
        "{name}: {calls:.2} calls to the store for each request"
    );
    let mut cpu = [0.0; 3];
    for (index, part) in cpu.iter_mut().enumerate() {
        *part = (after.0[index] - before.0[index]).as_secs_f64() * 1e6 / requests;
    }
    let (p50_ms, p99_ms) = (run.p50_ms, run.p99_ms);
    Ok(Sample { requests_per_second: run.requests_per_second(), p50_ms, p99_ms, cpu, calls })
}

/// Whether an answer shows that the limits were asked.
fn check(contender: Contender, answer: &client::Answer) -> Result<()> {
    let shown = match contender {
        Contender::Bare => true,
        Contender::Memory | Contender::Store(_) => {
            answer.header("ratelimit").is_some() && answer.header("x-tollgate-degraded").is_none()
        }
        Contender::Ratelimit { .. } => answer.header("x-ratelimit-remaining").is_some(),
    };
    ensure!(answer.status == 200 && shown, "{}: {answer}", contender.name());
    Ok(())
}

/// How many requests the gateway has answered.
async fn calls(gateway: &Gateway) -> Result<f64> {
    let bearer = format!("Bearer {TOKEN}");
    let page = client::get(gateway.address(), "/metrics", &[("authorization", &bearer)]).await?;
    let metrics = Metrics::parse(&page.text());
    let of = |route| metrics.sum("tollgate_gateway_requests_total", &[("route", route)]);
    Ok(ROUTES.into_iter().map(of).sum())
}

fn policy(limits: usize) -> Value {
    let limit = |number| {
        json!({ "name": format!("bench-{number}"), "algorithm": "fixed_window", "quota": 300_000_000, "window": "1h",
                "key": ["client_ip"] })
    };
    json!({ "default": { "rate_limits": (0..limits).map(limit).collect::<Vec<_>>() } })
}

fn table(options: &Options, rows: &[Row]) -> String {
    let of = |contender| rows.iter().find(|row| row.contender == contender).map(|row| &row.samples[..]);
    let bare = of(Contender::Bare).map_or(f64::NAN, |samples| medians(samples).requests_per_second);
    let mut text = format!(
        "{} connections, medians of {} interleaved rounds of {} s; each workerd has one thread, and nginx answers\n\n\
         | Worker | requests/s | of none | p50 ms | p99 ms | workerd CPU µs | gateway CPU µs | Redis CPU µs | calls to the store |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        options.connections, options.rounds, options.seconds
    );
    for Row { contender, samples, .. } in rows {
        let s = medians(samples);
        let store = |value: f64| {
            if contender.most_calls() > 0.0 { format!("{value:.1}") } else { "–".into() }
        };
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} % | {:.2} | {:.2} | {:.0} | {} | {} | {} |",
            contender.name(),
            s.requests_per_second,
            100.0 * s.requests_per_second / bare,
            s.p50_ms,
            s.p99_ms,
            s.cpu[0],
            store(s.cpu[1]),
            store(s.cpu[2]),
            store(s.calls),
        );
    }
    let _ = writeln!(
        text,
        "\n| Tollgate beside `@upstash/ratelimit` | wanted | found | |\n| --- | --- | --- | --- |"
    );
    let peer = |limits, at_once| Contender::Ratelimit { limits, at_once };
    for (limits, other, wanted) in
        [(1, peer(1, false), 1.0), (3, peer(3, false), 1.5), (3, peer(3, true), 1.5)]
    {
        let (Some(own), Some(theirs)) = (of(Contender::Store(limits)), of(other)) else { continue };
        // What ran right after each other is compared: a machine is not as fast all the time.
        let found = median(
            own.iter().zip(theirs).map(|(own, theirs)| own.requests_per_second / theirs.requests_per_second),
        );
        let kept = if found >= wanted { "kept" } else { "**NOT KEPT**" };
        let _ =
            writeln!(text, "| requests a second, {} | ≥ {wanted:.1} | {found:.2} | {kept} |", other.name());
    }
    text
}

fn medians(samples: &[Sample]) -> Sample {
    let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field));
    Sample {
        requests_per_second: of(|s| s.requests_per_second),
        p50_ms: of(|s| s.p50_ms),
        p99_ms: of(|s| s.p99_ms),
        cpu: [of(|s| s.cpu[0]), of(|s| s.cpu[1]), of(|s| s.cpu[2])],
        calls: of(|s| s.calls),
    }
}

const TOKEN: &str = "bench";

/// Where commands come to a gateway.
const ROUTES: [&str; 2] = ["command", "pipeline"];
