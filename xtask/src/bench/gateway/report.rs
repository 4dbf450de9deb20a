//! The tables.

use std::fmt::Write as _;

use super::super::{Options, median};
use super::workload::{Command, DEPTH, Workload};
use super::{Contender, Row, Sample, cores};

pub(super) fn report(options: &Options, rows: &[Row]) -> String {
    let mut text = format!(
        "{} connections (of h2c with several streams, as many fewer), medians of {} interleaved rounds of {} s; {} cores, \
         shared by everything below. CPU is in µs per command; latencies are of what is sent at once.\n",
        options.connections,
        options.rounds,
        options.seconds,
        cores()
    );
    for workload in Workload::ALL {
        let _ = write!(
            text,
            "\n**{workload}**\n\n\
             | contender | commands/s | of redis-benchmark | p50 ms | p99 ms | its CPU | Redis CPU | generator CPU | generator's core |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        );
        let of_this: Vec<&Row> = rows.iter().filter(|row| row.workload == workload).collect();
        let plain = of_this.iter().find(|row| row.contender == Contender::RedisBenchmark);
        for row in &of_this {
            let share = plain
                .map_or_else(dash, |plain| format!("{:.0} %", 100.0 * ratio(row, plain, |s| s.per_second)));
            let own = match row.contender {
                Contender::RedisBenchmark => dash(),
                _ => format!("{:.1}", row.median(|s| s.own_cpu)),
            };
            let busy = row.median(|s| s.generator_busy);
            let _ = writeln!(
                text,
                "| {} | {:.0} | {share} | {:.2} | {:.2} | {own} | {:.1} | {:.1} | {:.0} %{} |",
                row.contender,
                row.median(|s| s.per_second),
                row.median(|s| s.p50_ms),
                row.median(|s| s.p99_ms),
                row.median(|s| s.redis_cpu),
                row.median(|s| s.generator_cpu),
                100.0 * busy,
                if busy > GENERATOR_FULL { " (!)" } else { "" },
            );
        }
    }
    text.push_str(&notes(rows));
    text.push_str(&promises(rows));
    text
}

/// What makes the numbers less than they could be.
fn notes(rows: &[Row]) -> String {
    let mut text = String::new();
    if rows.iter().any(|row| row.median(|s| s.generator_busy) > GENERATOR_FULL) {
        text.push_str(
            "\n(!) The load generator has one core and used it up: the contender may be faster than this.\n",
        );
    }
    let others = median(rows.iter().flat_map(|row| &row.samples).map(|s| s.others));
    if others > OTHERS_MATTER {
        let _ = write!(
            text,
            "\n**Not alone:** something else kept {others:.1} cores busy meanwhile. \
             The rates mean little; CPU per command suffers less.\n"
        );
    }
    text
}

/// What the gateway is to be at least, and what it was.
fn promises(rows: &[Row]) -> String {
    let mut text =
        String::from("\n| gateway over | beside | wanted | found | |\n| --- | --- | --- | --- | --- |\n");
    for contender in Contender::ALL {
        let Contender::Gateway(http) = contender else { continue };
        for Promise { what, command, depth, peer, by, wanted } in PROMISES {
            let find = |who| {
                let workload = Workload { command, depth };
                rows.iter().find(|row| row.workload == workload && row.contender == who)
            };
            let Some((of, to)) = find(contender).zip(find(peer)) else { continue };
            let found = ratio(of, to, by);
            let word = if found >= wanted { "kept" } else { "**NOT KEPT**" };
            let _ = writeln!(text, "| {http} | {peer}: {what} | ≥ {wanted:.2} | {found:.2} | {word} |");
        }
    }
    text
}

/// The median of the rounds' ratios: what slows a round down slows down both.
fn ratio(of: &Row, to: &Row, by: impl Fn(&Sample) -> f64) -> f64 {
    median(of.samples.iter().zip(&to.samples).map(|(of, to)| by(of) / by(to)))
}

fn dash() -> String {
    "–".into()
}

/// How the gateway is to compare.
#[derive(Clone, Copy)]
struct Promise {
    what: &'static str,
    command: Command,
    depth: usize,
    peer: Contender,
    by: fn(&Sample) -> f64,
    wanted: f64,
}

const PROMISES: [Promise; 6] = [
    Promise {
        what: "limit scripts a second, in pipelines",
        command: Command::Limit,
        depth: DEPTH,
        peer: Contender::RedisBenchmark,
        by: |s| s.per_second,
        wanted: 0.7,
    },
    Promise {
        what: "`GET`s a second, in pipelines",
        command: Command::Get,
        depth: DEPTH,
        peer: Contender::RedisBenchmark,
        by: |s| s.per_second,
        wanted: 0.4,
    },
    Promise {
        what: "limit scripts per CPU second",
        command: Command::Limit,
        depth: 1,
        peer: Contender::Webdis,
        by: |s| 1.0 / s.own_cpu,
        wanted: 0.8,
    },
    Promise {
        what: "`GET`s per CPU second",
        command: Command::Get,
        depth: 1,
        peer: Contender::Webdis,
        by: |s| 1.0 / s.own_cpu,
        wanted: 0.8,
    },
    Promise {
        what: "`GET`s per CPU second",
        command: Command::Get,
        depth: 1,
        peer: Contender::NpmServer,
        by: |s| 1.0 / s.own_cpu,
        wanted: 3.0,
    },
    Promise {
        what: "`GET`s a second",
        command: Command::Get,
        depth: 1,
        peer: Contender::NpmServer,
        by: |s| s.per_second,
        wanted: 3.0,
    },
];

/// Cores busy with something else from which on it is worth a word.
const OTHERS_MATTER: f64 = 0.2;
/// The share of its core from which on the generator is what is measured.
const GENERATOR_FULL: f64 = 0.95;
