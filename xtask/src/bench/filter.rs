//! What the filter costs an Envoy with one worker thread. Every contender has an Envoy of its own.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::time::sleep;
use tollgate_tests::envoy::{Cluster, Envoy, Filter, Listener, Options as EnvoyOptions, Upstream};
use tollgate_tests::gateway::{Gateway, TOKEN_VARIABLE};
use tollgate_tests::metrics::Metrics;
use tollgate_tests::redis::Redis;
use tollgate_tests::{ports, run_dir, tools};
use tollgate_vectors::format::token;

use super::generator::wrk;
use super::{Options, median, origin, programs};
use crate::{build, setup, step};

/// Builds what is measured, measures it, prints the tables and writes them to `target/bench.md`.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    setup::run()?;
    programs::require(&[programs::WRK, programs::NGINX], options.install)?;
    build::run()?;
    let mut empty = build::filter();
    empty.args(["--example", "empty"]);
    step::run("build the empty filter", &mut empty, build::FIX)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = String::new();
    for upstream in [Answering::Envoy, Answering::Nginx] {
        let table = runtime.block_on(measure(options, upstream))?;
        println!("\n{table}");
        report.push_str(&table);
        report.push('\n');
    }
    let path = tools::target_dir().join("bench.md");
    std::fs::write(&path, report)?;
    println!("written to {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// What answers an admitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    Envoy,
    Nginx,
}

/// One row: an Envoy and what is in front of its router.
struct Contender {
    name: &'static str,
    filters: Vec<Filter>,
    uses_store: bool,
    /// How many refusals are expected: none, or all.
    refuses: bool,
}

/// What one measurement gave.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Microseconds of CPU per request: Envoy, gateway, Redis.
    cpu: [f64; 3],
    batch: f64,
}

fn contenders() -> Vec<Contender> {
    let limit = |name: &str, quota: u64| json!({ "name": name, "algorithm": "gcra", "quota": quota, "window": "1h", "key": ["client_ip"] });
    let guarded = |mut guards: Value| {
        (guards["name"], guards["match"]) = (json!("all"), json!({ "path": "/*" }));
        // As behind a trusted proxy; Envoy itself writes the entry with `use_remote_address`.
        json!({ "client_ip": { "from": "x-forwarded-for", "trusted_hops": 1 }, "routes": [guards] })
    };
    let policy = |quota: u64| guarded(json!({ "rate_limits": [limit("bench", quota)] }));
    let mut several = guarded(json!({
        "revocation": {},
        "rate_limits": [limit("bench", PLENTY), limit("second", PLENTY)],
        "circuit_breaker": { "failures": 5, "within": "60s", "open_for": "30s" },
    }));
    several["jwt"] =
        json!({ "algorithms": ["HS256"], "keys": [{ "alg": "HS256", "secret": { "env": SECRET.0 } }] });
    let store = |extra: Value| {
        let mut store = json!({ "cluster": STORE, "authority": "tollgate", "token_env": "TOLLGATE_TOKEN", "timeout": "1s" });
        store.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        store
    };
    let tollgate = |quota: u64, extra: Value| {
        Filter::Tollgate(json!({ "policy": policy(quota), "store": store(extra) }))
    };
    let row = |name, filters, uses_store, refuses| Contender { name, filters, uses_store, refuses };
    let empty = tools::target_dir().join("wasm32-wasip1/wasm/examples/empty.wasm");
    vec![
        row("plain Envoy", vec![], false, false),
        row("empty wasm filter", vec![Filter::Wasm { path: empty, config: None }], false, false),
        row("Envoy local_ratelimit", vec![Filter::LocalRateLimit { per_second: 10_000_000 }], false, false),
        row("Tollgate, memory", vec![Filter::Tollgate(json!({ "policy": policy(PLENTY) }))], false, false),
        row(
            "Tollgate, one call per request",
            vec![tollgate(PLENTY, json!({ "batch": 1, "calls_in_flight": 64, "key_prefix": "one" }))],
            true,
            false,
        ),
        row("Tollgate, group commit", vec![tollgate(PLENTY, json!({ "key_prefix": "group" }))], true, false),
        row(
            "Tollgate, revocation, two limits, breaker",
            vec![Filter::Tollgate(
                json!({ "policy": several, "store": store(json!({ "key_prefix": "several" })) }),
            )],
            true,
            false,
        ),
        row(
            "Tollgate, refused from the denial cache",
            vec![tollgate(1, json!({ "key_prefix": "denied" }))],
            true,
            true,
        ),
    ]
}

async fn measure(options: &Options, answering: Answering) -> Result<String> {
    let dir = run_dir::create()?;
    let redis = Redis::start(&dir, ports::free()?).await?;
    let gateway = Gateway::start(&dir, ports::free()?, &redis.url(), "bench").await?;
    let nginx = match answering {
        Answering::Envoy => None,
        Answering::Nginx => Some(origin::start(&dir).await?),
    };
    let upstream = nginx.as_ref().map_or(Upstream::Direct, |(_, address)| Upstream::Address(*address));
    let mut rows: Vec<(Contender, Envoy, Vec<Sample>)> = Vec::new();
    for (index, contender) in contenders().into_iter().enumerate() {
        if options.only.as_ref().is_some_and(|only| !contender.name.contains(only.as_str())) {
            continue;
        }
        let mut listener = Listener::new(ports::free()?, upstream.clone());
        listener.filters.clone_from(&contender.filters);
        let envoy = EnvoyOptions {
            name: format!("bench-{index}"),
            admin_port: ports::free()?,
            concurrency: 1,
            listeners: vec![listener],
            clusters: contender
                .uses_store
                .then(|| Cluster { name: STORE.into(), address: gateway.address(), http2: false })
                .into_iter()
                .collect(),
            variables: [(TOKEN_VARIABLE, "bench"), SECRET]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        };
        rows.push((contender, Envoy::start(&dir, envoy).await?, Vec::new()));
    }
    for round in 1..=options.rounds {
        for (contender, envoy, samples) in &mut rows {
            let sample = sample(options, contender, envoy, &gateway, &redis).await?;
            println!("round {round}: {:<42} {:>8.0} requests/s", contender.name, sample.requests_per_second);
            samples.push(sample);
        }
    }
    let medians: Vec<_> = rows.iter().map(|(contender, _, samples)| (contender, medians(samples))).collect();
    Ok(table(options, answering, &medians))
}

async fn sample(
    options: &Options,
    contender: &Contender,
    envoy: &Envoy,
    gateway: &Gateway,
    redis: &Redis,
) -> Result<Sample> {
    let url = format!("http://{}/bench", envoy.address());
    let in_an_hour = SystemTime::UNIX_EPOCH.elapsed()?.as_secs() + 3600;
    let claims = [("sub", json!("bench")), ("jti", json!("bench")), ("exp", json!(in_an_hour))];
    let claims = claims.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let bearer = format!("authorization: Bearer {}", token(claims, SECRET.1)?);
    // The first requests fill connection pools, and the quota of who is to be refused.
    wrk(&url, &[&bearer], 1, options.connections).await?;
    let used =
        || -> Result<[Duration; 3]> { Ok([envoy.cpu_time()?, gateway.cpu_time()?, redis.cpu_time()?]) };
    let counted = settled_metrics(envoy).await?;
    // Reading metrics costs an Envoy time, too, which is not what is measured.
    let began = used()?;
    let run = wrk(&url, &[&bearer], options.seconds, options.connections).await?;
    let ended = used()?;
    let counted = [counted, settled_metrics(envoy).await?];
    let refused = run.not_ok;
    if (contender.refuses && refused != run.requests) || (!contender.refuses && refused != 0) {
        bail!("{}: {refused} of {} answers were refusals", contender.name, run.requests);
    }
    let delta = |name: &str| counted[1].sum(name, &[]) - counted[0].sum(name, &[]);
    if delta("rate_limit_degraded_total") > 0.0 {
        bail!("{}: some decisions were made without the store", contender.name);
    }
    let mut cpu = [0.0; 3];
    for (index, part) in cpu.iter_mut().enumerate() {
        *part = (ended[index] - began[index]).as_secs_f64() * 1e6 / run.requests.max(1) as f64;
    }
    let calls = delta("redis_calls_total");
    Ok(Sample {
        requests_per_second: run.requests_per_second(),
        p50_ms: run.p50_ms,
        p99_ms: run.p99_ms,
        cpu,
        batch: if calls > 0.0 { delta("redis_batch_size_sum") / calls } else { 0.0 },
    })
}

/// Its metrics, with histograms that have caught up: behind a load, the two readings of [`Envoy::metrics`] are too close.
async fn settled_metrics(envoy: &Envoy) -> Result<Metrics> {
    envoy.metrics().await?;
    sleep(Duration::from_millis(100)).await;
    envoy.metrics().await
}

fn table(options: &Options, answering: Answering, rows: &[(&Contender, Sample)]) -> String {
    let rate = |name: &str| rows.iter().find(|(c, _)| c.name == name).map(|(_, s)| s.requests_per_second);
    let (plain, empty) = (rate("plain Envoy"), rate("empty wasm filter"));
    let what = if answering == Answering::Envoy { "Envoy answers itself" } else { "nginx answers" };
    let mut text = format!(
        "{what}; {} connections, medians of {} rounds of {} s\n\n\
         | contender | requests/s | of plain | of empty | p50 ms | p99 ms | Envoy CPU µs | gateway CPU µs | Redis CPU µs | batch |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        options.connections, options.rounds, options.seconds
    );
    for (contender, s) in rows {
        let share = |of: Option<f64>| {
            of.map_or_else(|| "–".into(), |of| format!("{:.0} %", 100.0 * s.requests_per_second / of))
        };
        let store = |value: f64| {
            if contender.uses_store && !contender.refuses { format!("{value:.1}") } else { "–".into() }
        };
        let _ = writeln!(
            text,
            "| {} | {:.0} | {} | {} | {:.2} | {:.2} | {:.1} | {} | {} | {} |",
            contender.name,
            s.requests_per_second,
            share(plain),
            share(empty),
            s.p50_ms,
            s.p99_ms,
            s.cpu[0],
            store(s.cpu[1]),
            store(s.cpu[2]),
            store(s.batch)
        );
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
        batch: of(|s| s.batch),
    }
}

const STORE: &str = "tollgate_store";
/// What signs the token that every request has.
const SECRET: (&str, &str) = ("JWT_SECRET", "a secret of at least thirty-two bytes");
/// A quota that no load here empties.
const PLENTY: u64 = 300_000_000;
