//! The Redis behind the gateway: a few connections, each shared by many requests and kept up by a task of its own.
//!
//! redis-rs multiplexes requests over a connection and matches the replies; what is ours is when a connection exists.
//! Its `ConnectionManager` lets requests wait while it reconnects, and only notices a loss by a request that fails. Here
//! every connection has a keeper, which owns its socket, sees its end at once and tries again with growing, jittered
//! delays; a request that finds no connection up fails at once.
//!
//! A wrong "it failed" makes a client repeat what has run; a wrong "it worked" loses a write. So nothing is ever sent
//! twice here, and an error says whether the command may have run.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, Value};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::config::RedisTarget;
use crate::reply::error_text;
use crate::sieve::Sieve;

/// The connections to one Redis. Dropping it closes them.
pub(crate) struct Backend {
    links: Box<[Arc<Link>]>,
    keepers: Vec<AbortHandle>,
    next: AtomicUsize,
    patience: Duration,
}

/// Why there is no answer from Redis.
#[derive(Debug)]
pub(crate) enum BackendError {
    /// No connection is up, for this reason; nothing was sent.
    Unreachable(Arc<str>),
    /// The connection ended before the answer came.
    Lost,
    /// The answer did not come within this time.
    TimedOut(Duration),
}

impl Backend {
    /// Connects, and keeps trying in the background when Redis is not there yet. Fails only for a Redis that will never
    /// do: one in cluster or sentinel mode. `patience` bounds every request.
    pub(crate) async fn start(
        target: &RedisTarget,
        connections: usize,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let first = match Session::connect(target).await {
            Err(error @ ConnectError::Mode(_)) => anyhow::bail!("cannot serve {target}: {error}"),
            first => first,
        };
        // Known before the first request comes: it finds a connection, or the reason why there is none.
        let (up, why): (_, Arc<str>) = match &first {
            Ok(session) => (Some(State::Up(session.connection.clone())), CONNECTING.into()),
            Err(error) => (None, error.to_string().into()),
        };
        let states = up.into_iter().chain(std::iter::repeat_with(|| State::Down(Arc::clone(&why))));
        let links: Box<[_]> =
            states.take(connections).map(|state| Arc::new(Link(RwLock::new(state)))).collect();
        let firsts = std::iter::once(Some(first)).chain(std::iter::repeat_with(|| None));
        let keepers = links
            .iter()
            .zip(firsts)
            .map(|(link, first)| {
                tokio::spawn(keep(Arc::clone(link), target.clone(), first, patience)).abort_handle()
            })
            .collect();
        Ok(Self { links, keepers, next: AtomicUsize::new(0), patience })
    }

    /// Sends one command.
    pub(crate) async fn command(&self, command: &Cmd) -> Result<Value, BackendError> {
        let mut connection = self.connection()?;
        self.answer(connection.send_packed_command(command)).await
    }

    /// Sends all of `commands` as one write. Errors of single commands are among the values.
    pub(crate) async fn pipeline(&self, commands: &Pipeline) -> Result<Vec<Value>, BackendError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection()?;
        self.answer(connection.send_packed_commands(commands, 0, commands.len())).await
    }

    /// Asks Redis whether it is there, for at most `bound`.
    pub(crate) async fn ping(&self, bound: Duration) -> Result<Value, BackendError> {
        let bound = bound.min(self.patience);
        timeout(bound, self.command(&redis::cmd("PING"))).await.unwrap_or(Err(BackendError::TimedOut(bound)))
    }

    /// The next connection in turn that is up.
    fn connection(&self) -> Result<MultiplexedConnection, BackendError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.links.len().max(1);
        let mut reason = None;
        for link in self.links.iter().cycle().skip(turn).take(self.links.len()) {
            match &*link.0.read().unwrap_or_else(PoisonError::into_inner) {
                State::Up(connection) => return Ok(connection.clone()),
                State::Down(why) => reason = Some(Arc::clone(why)),
            }
        }
        Err(BackendError::Unreachable(reason.unwrap_or_else(|| CONNECTING.into())))
    }

    async fn answer<T>(&self, sent: impl Future<Output = Result<T, RedisError>>) -> Result<T, BackendError> {
        match timeout(self.patience, sent).await {
            Ok(Ok(answer)) => Ok(answer),
            // Errors that Redis answers are values; what fails here is the connection.
            Ok(Err(error)) => {
                tracing::debug!(%error, "request lost");
                Err(BackendError::Lost)
            }
            Err(_) => Err(BackendError::TimedOut(self.patience)),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.keepers.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) => write!(f, "ERR redis is unreachable: {reason}"),
            Self::Lost => {
                f.write_str("ERR the connection to redis ended before the answer, what was sent may have run")
            }
            Self::TimedOut(span) => {
                write!(f, "ERR redis did not answer within {span:?}, what was sent may have run")
            }
        }
    }
}

/// The place of one connection.
struct Link(RwLock<State>);

enum State {
    Up(MultiplexedConnection),
    Down(Arc<str>),
}

impl Link {
    fn set(&self, state: State) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Keeps `link` up: connects, watches, and connects again. `first` is an attempt that was already made.
async fn keep(
    link: Arc<Link>,
    target: RedisTarget,
    mut first: Option<Result<Session, ConnectError>>,
    patience: Duration,
) {
    let mut backoff = Backoff::default();
    let mut logged = String::new();
    loop {
        let attempt = match first.take() {
            Some(attempt) => attempt,
            None => Session::connect(&target).await,
        };
        let reason = match attempt {
            Ok(mut session) => {
                tracing::info!(redis = %target, "connected");
                logged.clear();
                let since = Instant::now();
                link.set(State::Up(session.connection.clone()));
                let reason = session.watch(patience).await.to_owned();
                if since.elapsed() > LONGEST_DELAY {
                    backoff = Backoff::default();
                }
                reason
            }
            Err(error) => error.to_string(),
        };
        link.set(State::Down(reason.as_str().into()));
        if reason != logged {
            tracing::warn!(redis = %target, %reason, "not connected, trying again");
            logged = reason;
        }
        sleep(backoff.next_delay()).await;
    }
}

/// A connection with the task that drives its socket; dropping it closes the socket.
struct Session {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Session {
    async fn connect(target: &RedisTarget) -> Result<Self, ConnectError> {
        timeout(CONNECT_TIMEOUT, Self::connect_unbounded(target)).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn connect_unbounded(target: &RedisTarget) -> Result<Self, ConnectError> {
        let socket = TcpStream::connect((target.host.as_str(), target.port)).await?;
        socket.set_nodelay(true)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE)
            .set_write_backpressure_boundary(WRITE_BUFFER);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&target.settings, Sieve::new(socket), config).await?;
        let mut session = Self { connection, driver: tokio::spawn(driver) };

        let mut greeting = redis::pipe();
        greeting.cmd("PING").cmd("INFO").arg("server");
        let replies = session.connection.send_packed_commands(&greeting, 0, 2).await?;
        match replies.as_slice() {
            [Value::ServerError(error), ..] if error.code() == "NOAUTH" => {
                Err(ConnectError::Refused(error_text(error)))
            }
            // A user that may not ask for INFO is served; the mode is then for the operator to know.
            [_, Value::BulkString(info)] => match mode(info) {
                Some(mode @ ("cluster" | "sentinel")) => Err(ConnectError::Mode(mode.to_owned())),
                _ => Ok(session),
            },
            _ => Ok(session),
        }
    }

    /// Returns why the connection is of no more use: it ended, or Redis did not answer a `PING` for twice the time that
    /// a request may take. Without the latter, a Redis that is gone without a word would cost every request its timeout.
    async fn watch(&mut self, patience: Duration) -> &'static str {
        let bound = patience.max(HEARTBEAT).saturating_mul(2);
        let mut ticks = interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ping = redis::cmd("PING");
        let heartbeat = async {
            loop {
                ticks.tick().await;
                match timeout(bound, self.connection.send_packed_command(&ping)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => return LOST,
                    Err(_) => return "redis does not answer",
                }
            }
        };
        tokio::select! {
            _ = &mut self.driver => LOST,
            reason = heartbeat => reason,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why a connection could not be made. The texts reach clients, so they name no address.
enum ConnectError {
    Io(std::io::Error),
    Refused(String),
    Mode(String),
    TimedOut,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => fmt::Display::fmt(error, f),
            Self::Refused(text) => write!(f, "redis refuses: {text}"),
            Self::Mode(mode) => write!(f, "redis runs in {mode} mode, which is not supported yet"),
            Self::TimedOut => write!(f, "no connection within {CONNECT_TIMEOUT:?}"),
        }
    }
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        Self::Refused(error.to_string())
    }
}

fn mode(info: &[u8]) -> Option<&str> {
    std::str::from_utf8(info).ok()?.lines().find_map(|line| line.strip_prefix("redis_mode:"))
}

/// Delays that double from [`SHORTEST_DELAY`] to [`LONGEST_DELAY`]. Each is drawn from its upper half, so that replicas
/// which lost the same Redis do not come back in step.
#[derive(Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    fn next_delay(&mut self) -> Duration {
        let whole = SHORTEST_DELAY.saturating_mul(1 << self.attempts.min(16)).min(LONGEST_DELAY);
        self.attempts = self.attempts.saturating_add(1);
        let half = whole / 2;
        // Without randomness the delays are merely in step.
        let part = getrandom::u32().unwrap_or(u32::MAX) % 1000;
        half + half * part / 999
    }
}

const SHORTEST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// From the first packet to the answered greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Requests that may wait for a connection's driver; more wait in their own tasks, which the limit on requests bounds.
const QUEUE: usize = 256;

/// Requests are gathered up to this many bytes before they are written.
const WRITE_BUFFER: usize = 64 << 10;

const CONNECTING: &str = "not connected yet";
const LOST: &str = "the connection ended";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_with_jitter_to_their_bound() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..40).map(|_| backoff.next_delay()).collect();
        let mut whole = SHORTEST_DELAY;
        for delay in delays {
            assert!((whole / 2..=whole).contains(&delay), "{delay:?} of {whole:?}");
            whole = (whole * 2).min(LONGEST_DELAY);
        }
    }

    #[test]
    fn the_mode_is_read_from_info() {
        assert_eq!(
            mode(b"# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\nos:x\r\n"),
            Some("cluster")
        );
        assert_eq!(mode(b"# Server\r\n"), None);
        assert_eq!(mode(b"\xff"), None);
    }
}
