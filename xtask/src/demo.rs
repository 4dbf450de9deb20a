//! `demo`: one limit for three Envoys, first with Redis, then without it, then with it again. With `--edge`, one limit for three
//! workerds with the Worker and an Envoy beside them, in front of one origin.
//!
//! The exit status says whether it held: exactly the quota admitted, no answer of 500 or above while Redis was away,
//! and shared decisions again after it came back.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, interval, sleep};
use tollgate_tests::load::{Load, Report, Running};
use tollgate_tests::stack::{Stack, StackOptions};

use crate::{build, setup, up};

/// What to show.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Show three workerds with the Worker and an Envoy beside them instead of three Envoys.
    #[arg(long)]
    edge: bool,
}

/// Builds, starts the parts, and shows the three acts.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::run()?;
    build::run()?;
    if options.edge {
        setup::edge_tools()?;
        build::worker()?;
    }
    let policy =
        serde_json::from_slice(&fs::read(up::demo_policy())?).context("the policy of the demonstration")?;
    let edge = options.edge;
    up::until_signal(async move {
        let options =
            StackOptions { replicas: 3, concurrency: 2, patient: false, ..StackOptions::new(policy) };
        let (options, origin) = if edge {
            let (options, origin) = up::with_edge(StackOptions { replicas: 1, ..options }, 3).await?;
            (options, Some(origin))
        } else {
            (options, None)
        };
        let mut stack = Stack::start(options).await?;
        if edge {
            println!(
                "\nRedis, the gateway, an Envoy, three workerds with the Worker and one origin are running."
            );
        } else {
            println!("\nRedis, the gateway and three Envoys with two worker threads each are running.");
        }
        println!("The policy: {QUOTA} requests in 60 s for each client address, counted in Redis.");
        let mut verdict = Verdict::default();
        one_limit(&stack, &mut verdict).await?;
        if let Some(origin) = &origin {
            let seen = origin.requests();
            verdict.check(seen == QUOTA, format_args!("the origin saw those that were admitted ({seen})"));
        }
        without_redis(&mut stack, &mut verdict).await?;
        Ok(verdict.conclude(edge))
    })
}

/// 300 requests of one client over all replicas.
async fn one_limit(stack: &Stack, verdict: &mut Verdict) -> Result<()> {
    println!("\n1. One client sends {REQUESTS} requests, spread over the replicas.\n");
    let load = Load {
        connections: 32,
        pause: Duration::from_millis(150),
        ..Load::new(stack.addresses(), REQUESTS, PATH)
    };
    let mut running = load.of_clients(PATH, |_| IpAddr::V4(Ipv4Addr::LOCALHOST)).start()?;
    let envoys = stack.envoys.iter().map(|envoy| envoy.name().to_owned());
    let workerds = stack.workerds.iter().map(|workerd| workerd.name().to_owned());
    let mut table = Table { names: envoys.chain(workerds).collect(), drawn: false };
    let mut ticks = interval(Duration::from_millis(100));
    while !running.is_done() {
        ticks.tick().await;
        table.draw(&running)?;
    }
    table.finish(&running);
    let report = running.finish().await?;
    let (admitted, refused) = (report.count(200), report.count(429));
    println!("\n   together: {admitted} admitted, {refused} refused");
    println!(
        "   latency: p50 {:.1} ms, p99 {:.1} ms",
        milliseconds(report.quantile(0.5)),
        milliseconds(report.quantile(0.99))
    );
    if let Some(answer) = &report.first_refusal {
        println!("\n   The first refused answer:\n");
        answer.to_string().lines().for_each(|line| println!("     {line}"));
    }
    println!();
    verdict.check(
        admitted == QUOTA,
        format_args!("exactly {QUOTA} of {REQUESTS} requests were admitted ({admitted})"),
    );
    verdict.check(
        refused == REQUESTS - QUOTA,
        format_args!("the other {} got 429 ({refused})", REQUESTS - QUOTA),
    );
    Ok(())
}

/// Forty other clients, each far below its limit, while Redis ends and starts again.
async fn without_redis(stack: &mut Stack, verdict: &mut Verdict) -> Result<()> {
    println!("\n2. Forty other clients send two requests a second each, and Redis is stopped under them.\n");
    let load = Load {
        connections: CLIENTS.into(),
        pause: Duration::from_millis(500),
        sources: (1..=CLIENTS).map(client).collect(),
        marker: Some(DEGRADED),
        ..Load::new(stack.addresses(), u64::MAX, PATH)
    };
    let load = load.of_clients(PATH, |number| client((number % u64::from(CLIENTS)) as u8 + 1));
    let running = load.start()?;
    let mut acts = Acts::new(&running);
    sleep(Duration::from_secs(2)).await;
    let before = acts.end("with Redis");

    stack.redis.as_ref().context("the stack has a Redis of its own")?.stop().await;
    println!("   --- Redis is stopped ---");
    sleep(Duration::from_secs(1)).await;
    let first = acts.end("first second");
    sleep(Duration::from_secs(3)).await;
    let later = acts.end("without Redis");

    println!("   --- a client of its own sends {REQUESTS} requests to one replica ---");
    let own = IpAddr::V4(Ipv4Addr::new(127, 0, 2, 1));
    let greedy = Load {
        connections: 10,
        sources: vec![own],
        marker: Some(DEGRADED),
        ..Load::new(stack.addresses().split_off(stack.addresses().len() - 1), REQUESTS, PATH)
    };
    let greedy = greedy.of_clients(PATH, move |_| own).run().await?;
    println!("   {:<16} {}", "that client", line(&greedy));
    acts.end("meanwhile");

    let begun = Instant::now();
    stack.redis.as_mut().context("the stack has a Redis of its own")?.restart().await?;
    println!("   --- Redis is back ---");
    let recovered = loop {
        sleep(Duration::from_millis(500)).await;
        let part = acts.cut();
        if part.marked() == 0 && part.answers() > 0 {
            println!("   {:<16} {}", "with Redis again", line(&part));
            break Some(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            break None;
        }
    };
    running.stop();
    let total = running.finish().await?;

    println!("\n   The header `{DEGRADED}` says that an answer was decided without the store.");
    println!("   The longest that a request waited: {:.0} ms.\n", milliseconds(total.longest));
    verdict.check(before.marked() == 0, format_args!("with Redis, every decision was shared"));
    let errors = total.server_errors() + greedy.server_errors() + total.failed() + greedy.failed();
    verdict.check(
        errors == 0,
        format_args!("no request failed or got 500 or above ({errors} of {})", total.answers()),
    );
    let degraded = first.marked() + later.marked();
    verdict.check(degraded > 0, format_args!("without Redis, answers said so ({degraded})"));
    verdict.check(
        greedy.count(200) < REQUESTS && greedy.count(429) > 0,
        format_args!(
            "without Redis, a replica still limited from its own memory ({} admitted)",
            greedy.count(200)
        ),
    );
    let sentence = recovered.map_or("never".into(), |after| format!("{:.1} s later", after.as_secs_f64()));
    verdict.check(
        recovered.is_some(),
        format_args!("with Redis back, every decision was shared again ({sentence})"),
    );
    Ok(())
}

/// What was promised and whether it held.
#[derive(Debug, Default)]
struct Verdict {
    broken: u32,
}

impl Verdict {
    fn check(&mut self, held: bool, promise: fmt::Arguments<'_>) {
        println!("   {} {promise}", if held { "held:  " } else { "BROKEN:" });
        self.broken += u32::from(!held);
    }

    fn conclude(&self, edge: bool) -> ExitCode {
        let command = if edge { "cargo xtask up --edge" } else { "cargo xtask up" };
        match self.broken {
            0 => {
                println!("\nEverything held. `{command}` keeps the same parts running for you.");
                ExitCode::SUCCESS
            }
            count => {
                println!("\n{count} of the promises did not hold.");
                ExitCode::FAILURE
            }
        }
    }
}

/// The counts of each replica, redrawn in place on a terminal and written once elsewhere.
#[derive(Debug)]
struct Table {
    names: Vec<String>,
    drawn: bool,
}

impl Table {
    fn draw(&mut self, running: &Running) -> Result<()> {
        if !io::stdout().is_terminal() {
            return Ok(());
        }
        let rows = rows(&self.names, running);
        if self.drawn {
            print!("\x1b[{}A", rows.len());
        }
        self.drawn = true;
        rows.iter().for_each(|row| println!("\x1b[K{row}"));
        Ok(io::stdout().flush()?)
    }

    fn finish(mut self, running: &Running) {
        if io::stdout().is_terminal() {
            let _ = self.draw(running);
        } else {
            rows(&self.names, running).iter().for_each(|row| println!("{row}"));
        }
    }
}

fn rows(names: &[String], running: &Running) -> Vec<String> {
    let mut rows = vec![format!("   {:<32}{:>9}{:>9}", "replica", "admitted", "refused")];
    let row = |name: &str, report: &Report| {
        format!("   {name:<32}{:>9}{:>9}", report.count(200), report.count(429))
    };
    let so_far = running.so_far();
    let named = names.iter().zip(&so_far);
    rows.extend(named.map(|(name, (address, report))| row(&format!("{name:<10} {address}"), report)));
    rows.push(row("together", &running.total()));
    rows
}

/// One of the forty.
fn client(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, number))
}

/// A running load cut into parts: what came since the last cut.
struct Acts<'a> {
    running: &'a Running,
    last: Report,
}

impl<'a> Acts<'a> {
    fn new(running: &'a Running) -> Acts<'a> {
        Acts { running, last: running.total() }
    }

    fn cut(&mut self) -> Report {
        let now = self.running.total();
        let part = now.since(&self.last);
        self.last = now;
        part
    }

    fn end(&mut self, name: &str) -> Report {
        let part = self.cut();
        println!("   {name:<16} {}", line(&part));
        part
    }
}

fn line(report: &Report) -> String {
    let (degraded, failed) = (report.marked(), report.failed());
    let statuses: Vec<String> =
        report.statuses.iter().map(|(status, count)| format!("{count} × {status}")).collect();
    let statuses = if statuses.is_empty() { "no answer".into() } else { statuses.join(", ") };
    format!("{statuses}; {degraded} degraded, {failed} failed")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

const PATH: &str = "/api/things";
const REQUESTS: u64 = 300;
const QUOTA: u64 = 100;
const CLIENTS: u8 = 40;
/// The header of an answer that was decided without the store.
const DEGRADED: &str = "x-tollgate-degraded";
/// How long after its return the store may stay unused.
const PATIENCE: Duration = Duration::from_secs(20);
