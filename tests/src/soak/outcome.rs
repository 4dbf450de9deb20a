//! What came of a soak, and whether that is as it should be.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::MAX_MEMORY;
use crate::load::Report;

/// How things stand at one time.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the crowd came.
    pub at: Duration,
    /// The gateway's resident memory, in bytes.
    pub resident: u64,
    /// The gateway's open files, most of which are connections.
    pub descriptors: usize,
    /// Right answers so far.
    pub answers: u64,
    /// Clients that have left in the middle so far.
    pub departures: u64,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>5.0} s  {:>7.1} MiB  {:>6} open files  {:>9} right answers  {:>7} departures",
            self.at.as_secs_f64(),
            mebibytes(self.resident),
            self.descriptors,
            self.answers,
            self.departures
        )
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the patient and the busy clients were answered.
    pub reports: [Report; 2],
    /// From the end of the warm-up on.
    pub moments: Vec<Moment>,
    /// Patient and busy clients, who were to be connected all the time.
    pub polite_clients: usize,
    /// All clients.
    pub clients: usize,
    /// Very large answers that began to arrive at deaf clients.
    pub unread_answers: u64,
    /// Large answers that began to arrive at slow clients.
    pub slow_answers: u64,
    /// Clients that left in the middle.
    pub departures: u64,
    /// Files that the gateway had open more than before, some time after everybody left.
    pub left_behind: usize,
}

impl Outcome {
    /// Fails, with the reason, unless every answer was right, nothing was left behind, and memory was flat.
    pub fn judge(&self) -> Result<()> {
        for (who, report) in ["patient", "busy"].iter().zip(&self.reports) {
            let failed = report.failed();
            let first = report.first_refusal.as_ref().map(ToString::to_string).unwrap_or_default();
            ensure!(
                failed == 0,
                "{failed} requests of {who} clients went wrong: {:?}\n{first}",
                report.failures
            );
            ensure!(report.answers() > 0, "{who} clients got no answer at all");
        }
        ensure!(
            self.slow_answers > 0 && self.departures > 0 && self.unread_answers > 0,
            "the crowd was not as it should be: {self:?}"
        );
        let connected = self.moments.iter().map(|moment| moment.descriptors).min().unwrap_or(0);
        ensure!(
            connected >= self.polite_clients,
            "{} clients were to be connected, and the gateway had {connected} open files",
            self.polite_clients
        );
        ensure!(
            self.left_behind <= SPARE_DESCRIPTORS,
            "after everybody left, the gateway kept {} files open",
            self.left_behind
        );
        let memory: Vec<u64> = self.moments.iter().map(|moment| moment.resident).collect();
        let allowed = MAX_MEMORY + BESIDES + self.clients as u64 * CONNECTION;
        let most = memory.iter().copied().max().unwrap_or(0);
        ensure!(
            most <= allowed,
            "memory was {:.1} MiB, {:.1} MiB is the most allowed",
            mebibytes(most),
            mebibytes(allowed)
        );
        flat(&memory)
    }

    /// The greatest resident memory of the first and of the last third.
    pub fn peaks(&self) -> Option<(u64, u64)> {
        let memory: Vec<u64> = self.moments.iter().map(|moment| moment.resident).collect();
        peaks(&memory)
    }
}

/// Fails unless the peak of the last third is at most a twentieth and 4 MiB above the peak of the first.
pub fn flat(memory: &[u64]) -> Result<()> {
    let Some((first, last)) = peaks(memory) else { bail!("{} measurements are too few", memory.len()) };
    let allowed = first + first / 20 + MARGIN;
    ensure!(
        last <= allowed,
        "memory grew from {:.1} MiB in the first third to {:.1} MiB in the last, {:.1} MiB is the most allowed",
        mebibytes(first),
        mebibytes(last),
        mebibytes(allowed)
    );
    Ok(())
}

fn peaks(memory: &[u64]) -> Option<(u64, u64)> {
    let third = memory.len() / 3;
    let first = memory.get(..third)?.iter().max()?;
    let last = memory.get(memory.len() - third..)?.iter().max()?;
    Some((*first, *last))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What the gateway may take besides what is for clients, and for each connection.
const BESIDES: u64 = 64 << 20;
const CONNECTION: u64 = 24 << 10;
/// What memory may grow by, besides a twentieth.
const MARGIN: u64 = 4 << 20;
/// Connections of the gateway's own may come and go.
pub(super) const SPARE_DESCRIPTORS: usize = 8;
