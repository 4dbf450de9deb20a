//! A place for one connection to one node, kept up by a task of its own.
//!
//! The keeper owns the socket, sees its end at once and tries again with growing, jittered delays; who asks for a
//! connection while none is up is told so at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::connection::{Connection, Driver};
use crate::resp::{Item, Reader, Scanner, command};
use crate::target::{Address, Credentials};

/// The place of one connection. Dropping it closes the connection once everything asked on it is answered.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Receiver<State>,
    keeper: AbortHandle,
}

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// User, password and database.
    pub(crate) credentials: Arc<Credentials>,
    /// How long a request may take.
    pub(crate) patience: Duration,
    /// The most bytes of replies to one request.
    pub(crate) largest: usize,
    /// What the node has to be.
    pub(crate) mode: Mode,
}

/// How a Redis runs, as `INFO` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For itself, perhaps with replicas.
    Standalone,
    /// As a node of a cluster.
    Cluster,
    /// As a sentinel.
    Sentinel,
}

#[derive(Clone, Debug)]
enum State {
    Up(Connection),
    Down(Arc<ConnectError>),
}

impl Link {
    /// Begins to connect to `address`.
    pub(crate) fn open(address: Address, options: Options) -> Self {
        let (states, state) = watch::channel(State::Down(Arc::new(ConnectError::NotYet)));
        let keeper = tokio::spawn(keep(states, address, options)).abort_handle();
        Self { state, keeper }
    }

    /// The connection, if it is up.
    pub(crate) fn connection(&self) -> Result<Connection, Arc<ConnectError>> {
        match &*self.state.borrow() {
            State::Up(connection) => Ok(connection.clone()),
            State::Down(why) => Err(Arc::clone(why)),
        }
    }

    /// What the first attempt came to.
    pub(crate) async fn attempted(&self) -> Result<Connection, Arc<ConnectError>> {
        let mut state = self.state.clone();
        let attempted = |state: &State| !matches!(state, State::Down(why) if **why == ConnectError::NotYet);
        // The keeper lives as long as this link.
        let _ = state.wait_for(attempted).await;
        self.connection()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Keeps a connection up: connects, watches, and connects again.
async fn keep(states: watch::Sender<State>, address: Address, options: Options) {
    let mut backoff = Backoff::default();
    let mut logged = None;
    loop {
        let error = match dial(&address, &options).await {
            Ok(stream) => {
                tracing::info!(redis = %address, "connected");
                logged = None;
                let since = Instant::now();
                let (connection, driver) = Connection::new(stream, options.largest);
                states.send_replace(State::Up(connection.clone()));
                let end = watch(&connection, driver, options.patience).await;
                if since.elapsed() > LONGEST_DELAY {
                    backoff = Backoff::default();
                }
                end
            }
            Err(error) => error,
        };
        if logged.as_ref() != Some(&error) {
            tracing::warn!(redis = %address, %error, "not connected, trying again");
            logged = Some(error.clone());
        }
        states.send_replace(State::Down(Arc::new(error)));
        sleep(backoff.next_delay()).await;
    }
}

/// Returns why the connection is of no more use: it ended, or Redis did not answer a `PING` for twice the time that a
/// request may take. Without the latter, a Redis that is gone without a word would cost every request its timeout.
async fn watch(connection: &Connection, driver: Driver<TcpStream>, patience: Duration) -> ConnectError {
    let bound = patience.max(HEARTBEAT).saturating_mul(2);
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let heartbeat = async {
        loop {
            ticks.tick().await;
            match timeout(bound, connection.ask(command(&["PING"]).into(), 1)).await {
                Ok(Ok(_)) => {}
                // The driver says why.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return ConnectError::Silent,
            }
        }
    };
    tokio::select! {
        end = driver => ConnectError::Ended(end.to_string()),
        silent = heartbeat => silent,
    }
}

/// Connects to a node, says who we are, and makes sure that it is one that will do.
pub(crate) async fn dial(address: &Address, options: &Options) -> Result<TcpStream, ConnectError> {
    let dialled = async {
        let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        greet(&mut stream, options).await?;
        Ok(stream)
    };
    timeout(CONNECT_TIMEOUT, dialled).await.unwrap_or(Err(ConnectError::TimedOut))
}

async fn greet(stream: &mut TcpStream, options: &Options) -> Result<(), ConnectError> {
    let Credentials { user, password, database } = &*options.credentials;
    let mut greeting = Vec::new();
    match (user, password) {
        (Some(user), Some(password)) => greeting.push(command(&["AUTH", user, password])),
        (None, Some(password)) => greeting.push(command(&["AUTH", password])),
        _ => {}
    }
    if *database != 0 {
        greeting.push(command(&["SELECT", &database.to_string()]));
    }
    let must_succeed = greeting.len();
    greeting.extend([command(&["PING"]), command(&["INFO", "server"])]);
    let replies = exchange(stream, &greeting).await?;
    for (number, reply) in replies.iter().enumerate() {
        match Reader(reply).next() {
            Some(Item::Error(text)) if number < must_succeed || text.starts_with(b"NOAUTH") => {
                return Err(ConnectError::Refused(String::from_utf8_lossy(text).into_owned()));
            }
            // A user that may not ask for INFO is served; the mode is then for the operator to know.
            Some(Item::Bulk(info)) => match mode(info) {
                Some(mode) if mode != options.mode => return Err(ConnectError::Mode(mode)),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(())
}

/// Sends commands over a stream that nobody else uses, and reads their replies.
pub(crate) async fn exchange(
    stream: &mut TcpStream,
    commands: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, ConnectError> {
    stream.write_all(&commands.concat()).await?;
    stream.flush().await?;
    let (mut received, mut scanner, mut replies) = (Vec::new(), Scanner::default(), Vec::new());
    while replies.len() < commands.len() {
        while scanner.advance(&received).map_err(|error| ConnectError::Refused(error.to_string()))? {
            replies.push(received.drain(..scanner.position()).collect());
            scanner.rebase();
        }
        if replies.len() < commands.len() && stream.read_buf(&mut received).await? == 0 {
            return Err(ConnectError::Ended("redis closed the connection".into()));
        }
    }
    Ok(replies)
}

/// Why there is no connection. The texts reach clients, so they name no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// The first attempt is under way.
    NotYet,
    /// The network says so.
    Io(String),
    /// Redis does.
    Refused(String),
    /// It is another kind of Redis.
    Mode(Mode),
    /// It took too long.
    TimedOut,
    /// There was one, and it ended.
    Ended(String),
    /// There was one, and Redis did not answer on it.
    Silent,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet => f.write_str("not connected yet"),
            Self::Io(error) | Self::Ended(error) => f.write_str(error),
            Self::Refused(text) => write!(f, "redis refuses: {text}"),
            Self::Mode(Mode::Standalone) => f.write_str("redis is no node of a cluster: use `redis://`"),
            Self::Mode(Mode::Cluster) => f.write_str("redis runs in cluster mode: use `redis+cluster://`"),
            Self::Mode(Mode::Sentinel) => f.write_str("this is a sentinel: use `redis+sentinel://`"),
            Self::TimedOut => write!(f, "no connection within {CONNECT_TIMEOUT:?}"),
            Self::Silent => f.write_str("redis does not answer"),
        }
    }
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

fn mode(info: &[u8]) -> Option<Mode> {
    match std::str::from_utf8(info).ok()?.lines().find_map(|line| line.strip_prefix("redis_mode:"))? {
        "standalone" => Some(Mode::Standalone),
        "cluster" => Some(Mode::Cluster),
        "sentinel" => Some(Mode::Sentinel),
        _ => None,
    }
}

/// Delays that double from [`SHORTEST_DELAY`] to [`LONGEST_DELAY`]. Each is drawn from its upper half, so that replicas
/// which lost the same Redis do not come back in step.
#[derive(Debug, Default)]
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
        let info = b"# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\nos:x\r\n";
        assert_eq!(mode(info), Some(Mode::Cluster));
        assert_eq!(mode(b"# Server\r\n"), None);
        assert_eq!(mode(b"\xff"), None);
    }
}
