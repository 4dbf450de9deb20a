//! `up`: the stack, until Ctrl-C.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::str::FromStr;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tollgate_tests::process::last_lines;
use tollgate_tests::stack::{Edge, Stack, StackOptions, StoreChoice};
use tollgate_tests::upstream::Upstream;
use tollgate_tests::{envoy, ports, tools};

use crate::{build, setup, step};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The policy that every replica runs [default: the policy of the demonstration].
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How many Envoys.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// How many worker threads each Envoy has.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: u32,
    /// Replica i listens on this port plus i.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// As many workerds with the Worker beside the Envoys, on the ports behind theirs, all of them in front of a small origin.
    #[arg(long)]
    edge: bool,
    /// Where decisions are shared: `auto` starts a Redis, a URL names one, `none` lets each Envoy decide alone.
    #[arg(long, default_value = "auto", value_name = "auto|URL|none")]
    redis: RedisChoice,
}

#[derive(Debug, Clone)]
struct RedisChoice(StoreChoice);

impl FromStr for RedisChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<RedisChoice, String> {
        match text {
            "auto" => Ok(RedisChoice(StoreChoice::Redis)),
            "none" => Ok(RedisChoice(StoreChoice::None)),
            url if url.contains("://") => Ok(RedisChoice(StoreChoice::RedisUrl(url.to_owned()))),
            other => Err(format!(
                "`{other}` is neither `auto` nor `none` nor a URL such as `redis://localhost:6379`"
            )),
        }
    }
}

/// Builds, starts, and stays until a signal comes or a part ends.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let path = options.policy.clone().unwrap_or_else(demo_policy);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read the policy `{}`", path.display()))?;
    let policy = serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", path.display()))?;
    setup::run()?;
    build::run()?;
    if options.edge {
        setup::edge_tools()?;
        build::worker()?;
    }
    let mut check = Command::new(tools::gateway()?);
    check.arg("check").arg(&path);
    let summary = step::run("check the policy", &mut check, "fix: change the policy as the message says")?;
    println!("{}", last_lines(&summary, usize::MAX));
    let stack = StackOptions {
        replicas: options.replicas,
        concurrency: options.concurrency,
        store: options.redis.0.clone(),
        base_port: Some(options.port),
        patient: false,
        ..StackOptions::new(policy)
    };
    let workers = if options.edge { options.replicas } else { 0 };
    until_signal(async move {
        let (stack, _origin) = match workers {
            0 => (stack, None),
            count => {
                let (stack, origin) = with_edge(stack, count).await?;
                (stack, Some(origin))
            }
        };
        let stack = Stack::start(stack).await?;
        print(&stack);
        let ended = stack.wait_for_an_end().await;
        anyhow::bail!("{ended}\n  the logs are in {}", stack.dir.display())
    })
}

/// The same stack with that many Workers, and an origin behind all of it that answers with what it received.
pub(crate) async fn with_edge(options: StackOptions, workers: u16) -> Result<(StackOptions, Upstream)> {
    let origin = Upstream::start(ports::free()?).await?;
    let edge = Some(Edge::new(workers, origin.address()));
    let upstream = envoy::Upstream::Address(origin.address());
    Ok((StackOptions { edge, upstream, ..options }, origin))
}

/// The policy that the demonstration runs.
pub(crate) fn demo_policy() -> PathBuf {
    tools::workspace().join("tests/policies/demo.json")
}

/// Runs `work` unless SIGINT, SIGTERM or SIGHUP comes first; then drops it, which stops every process it has started.
pub(crate) fn until_signal(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let name = tokio::select! {
            result = work => return result,
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        };
        println!("{name}: everything is stopped");
        Ok(ExitCode::SUCCESS)
    })
}

fn print(stack: &Stack) {
    println!();
    for process in stack.processes() {
        println!("  {:<10} pid {:<8} {}", process.name(), process.id(), process.log_path().display());
    }
    println!();
    for envoy in &stack.envoys {
        println!(
            "  curl -i http://{}/        # metrics: http://{}/stats/prometheus",
            envoy.address(),
            envoy.admin()
        );
    }
    for address in stack.workerds.iter().flat_map(|workerd| workerd.addresses()) {
        println!("  curl -i http://{address}/ -H 'cf-connecting-ip: 127.0.0.1'        # the Worker");
    }
    if let Some(gateway) = &stack.gateway {
        let (address, token) = (gateway.address(), &stack.token);
        println!("  curl -s http://{address}/ -H 'authorization: Bearer {token}' -d '[\"DBSIZE\"]'");
    }
    println!("\n  All of them answer. Ctrl-C stops them.");
}
