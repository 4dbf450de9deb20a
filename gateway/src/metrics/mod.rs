//! What happened, in numbers.
//!
//! Each thread counts for itself, without atomics; who asks for metrics gets the sum of what all threads hand out.

mod commands;
mod histogram;
mod text;

use std::cell::RefCell;
use std::time::Duration;

use hyper::StatusCode;

use crate::command::Batch;
use crate::server::{Kind, Route};
use commands::Commands;
use histogram::Histogram;

pub(crate) use text::{Sample, Text};

/// What one thread has counted.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Requests by route and by class of status.
    requests: [[u64; CLASSES]; ROUTES],
    /// How long they took, in microseconds, by route.
    durations: [Histogram<{ DURATIONS.len() }>; ROUTES],
    commands: Commands,
    /// Commands in a pipeline or transaction.
    batches: Histogram<{ BATCHES.len() }>,
    errors: [u64; Kind::ALL.len()],
    request_bytes: u64,
    response_bytes: u64,
    messages: u64,
}

/// Takes down what happens on one thread.
#[derive(Debug, Default)]
pub(crate) struct Recorder(RefCell<Metrics>);

impl Recorder {
    /// A request was answered.
    pub(crate) fn request(&self, route: Route, status: StatusCode, took: Duration, body: usize) {
        self.record(|metrics| {
            let class = usize::from(status.as_u16() / 100).saturating_sub(FIRST_CLASS);
            if let Some(count) =
                metrics.requests.get_mut(route as usize).and_then(|route| route.get_mut(class))
            {
                *count += 1;
            }
            if let Some(durations) = metrics.durations.get_mut(route as usize) {
                durations.measure(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            metrics.response_bytes += body as u64;
        });
    }

    /// Commands are about to be sent, which came in a body of this size.
    pub(crate) fn batch(&self, batch: &Batch, body: usize, several: bool) {
        self.record(|metrics| {
            batch.sending().for_each(|sending| metrics.commands.count(sending.info));
            if several {
                metrics.batches.measure(batch.entries().len() as u64);
            }
            metrics.request_bytes += body as u64;
        });
    }

    /// Something failed, this often.
    pub(crate) fn errors(&self, kind: Kind, count: usize) {
        if count > 0 {
            self.record(|metrics| {
                if let Some(errors) = metrics.errors.get_mut(kind as usize) {
                    *errors += count as u64;
                }
            });
        }
    }

    /// A piece of a large answer was sent.
    pub(crate) fn sent(&self, size: usize) {
        self.record(|metrics| metrics.response_bytes += size as u64);
    }

    /// A stream was sent an event of this size.
    pub(crate) fn message(&self, size: usize) {
        self.record(|metrics| {
            metrics.messages += 1;
            metrics.response_bytes += size as u64;
        });
    }

    /// What was taken down so far.
    pub(crate) fn metrics(&self) -> Metrics {
        self.0.try_borrow().map(|metrics| metrics.clone()).unwrap_or_default()
    }

    /// Nothing that is recorded records anything itself, so it is never borrowed twice.
    fn record(&self, change: impl FnOnce(&mut Metrics)) {
        if let Ok(mut metrics) = self.0.try_borrow_mut() {
            change(&mut metrics);
        }
    }
}

impl Metrics {
    /// Adds what another thread has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, other) in self.requests.iter_mut().zip(&other.requests) {
            own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        }
        self.durations.iter_mut().zip(&other.durations).for_each(|(own, other)| own.merge(other));
        self.commands.merge(&other.commands);
        self.batches.merge(&other.batches);
        self.errors.iter_mut().zip(&other.errors).for_each(|(own, other)| *own += other);
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.messages += other.messages;
    }

    /// Writes everything that was counted.
    pub(crate) fn write(&self, text: &mut Text) {
        text.family("requests_total", "counter", "Requests answered, by route and class of status.");
        for (route, classes) in Route::ALL.iter().zip(&self.requests) {
            for (class, count) in (FIRST_CLASS..).zip(classes).filter(|(_, count)| **count > 0) {
                text.sample(&[("route", route.name()), ("status", &format!("{class}xx"))], *count);
            }
        }
        text.family(
            "request_duration_seconds",
            "histogram",
            "From the head of a request to the head of its answer.",
        );
        for (route, durations) in Route::ALL.iter().zip(&self.durations).filter(|(_, one)| one.count() > 0) {
            text.histogram(&[("route", route.name())], durations, Sample::Microseconds);
        }
        text.family(
            "commands_total",
            "counter",
            "Commands sent to Redis, by name; those of modules as `other`.",
        );
        for (name, count) in self.commands.sent() {
            text.sample(&[("command", name)], count);
        }
        text.family("batch_commands", "histogram", "Commands in a pipeline or transaction.");
        text.histogram(&[], &self.batches, Sample::Plain);
        text.family("errors_total", "counter", "Requests, and commands in pipelines, that failed, by kind.");
        for (kind, count) in Kind::ALL.iter().zip(&self.errors) {
            text.sample(&[("kind", kind.name())], *count);
        }
        for (name, help, count) in [
            (
                "request_bytes_total",
                "Bytes of request bodies that were read to their end.",
                self.request_bytes,
            ),
            ("response_bytes_total", "Bytes of the bodies of answers.", self.response_bytes),
            ("stream_messages_total", "Events sent to subscriptions and monitors.", self.messages),
        ] {
            text.family(name, "counter", help);
            text.sample(&[], count);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: [[0; CLASSES]; ROUTES],
            durations: [Histogram::new(&DURATIONS); ROUTES],
            commands: Commands::new(),
            batches: Histogram::new(&BATCHES),
            errors: [0; Kind::ALL.len()],
            request_bytes: 0,
            response_bytes: 0,
            messages: 0,
        }
    }
}

const ROUTES: usize = Route::ALL.len();

/// Statuses are counted as 2xx to 5xx.
const CLASSES: usize = 4;
const FIRST_CLASS: usize = 2;

/// Microseconds.
static DURATIONS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

static BATCHES: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];
