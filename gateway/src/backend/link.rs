//! A place for one connection to one server, kept up by a task of its own.
//!
//! The keeper owns the socket, sees its end at once and tries again with growing, jittered delays; who asks for a
//! connection while none is up is told so at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::connection::{CLOSED, Connection, Driver};
use super::status::{Counters, Role};
use super::transport::Transport;
use crate::memory::Memory;
use crate::resp::{Item, Reader, Scanner, command};
use crate::target::{Address, Credentials, Tls, TlsError};

/// The place of one connection. Dropping it ends the connection: what was asked on it is told that it may have run.
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
    /// Encryption, if there is to be some.
    pub(crate) tls: Option<Tls>,
    /// How long a request may take.
    pub(crate) patience: Duration,
    /// The most bytes of replies to one request.
    pub(crate) largest: usize,
    /// What all replies together may take.
    pub(crate) memory: Memory,
    /// How the server has to run.
    pub(crate) mode: Mode,
    /// What it has to be among its kind; nothing when that does not matter.
    pub(crate) role: Option<Role>,
    /// Told whenever a connection comes up or goes down.
    pub(crate) changed: Arc<Notify>,
    /// Where to count.
    pub(crate) counters: Arc<Counters>,
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

/// What is known of a connection.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// It, or why there is none.
    pub(crate) connection: Result<Connection, Arc<ConnectError>>,
    /// How often it was made.
    pub(crate) connects: u64,
    /// Why there was none when there was none last.
    pub(crate) last_error: Option<Arc<ConnectError>>,
}

impl Link {
    /// Begins to connect to `address`.
    pub(crate) fn open(address: Address, options: Options) -> Self {
        let state = State { connection: Err(Arc::new(ConnectError::NotYet)), connects: 0, last_error: None };
        let (states, state) = watch::channel(state);
        let keeper = tokio::spawn(keep(states, address, options)).abort_handle();
        Self { state, keeper }
    }

    /// The connection, if it is up.
    pub(crate) fn connection(&self) -> Result<Connection, Arc<ConnectError>> {
        self.state.borrow().connection.clone()
    }

    /// What the first attempt came to.
    pub(crate) async fn attempted(&self) -> Result<Connection, Arc<ConnectError>> {
        let mut state = self.state.clone();
        let attempted =
            |state: &State| !matches!(&state.connection, Err(why) if **why == ConnectError::NotYet);
        // The keeper lives as long as this link.
        let _ = state.wait_for(attempted).await;
        self.connection()
    }

    /// What is known of it.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
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
    let counters = Arc::clone(&options.counters);
    loop {
        let error = match dial(&address, &options).await {
            Ok(stream) => {
                tracing::info!(redis = %address, "connected");
                logged = None;
                let since = Instant::now();
                let (connection, driver) = Connection::new(stream, options.largest, options.memory.clone());
                counters.connects.add(1);
                counters.reconnects.add(usize::from(states.borrow().connects > 0));
                states.send_modify(|state| {
                    state.connects += 1;
                    state.connection = Ok(connection.clone());
                });
                options.changed.notify_one();
                let end = watch(&connection, driver, options.patience).await;
                counters.lost.add(1);
                if since.elapsed() > LONGEST_DELAY {
                    backoff = Backoff::default();
                }
                end
            }
            Err(error) => {
                counters.connect_failures.add(1);
                error
            }
        };
        if logged.as_ref() != Some(&error) {
            tracing::warn!(redis = %address, %error, "not connected, trying again");
            logged = Some(error.clone());
        }
        let error = Arc::new(error);
        states.send_modify(|state| {
            state.connection = Err(Arc::clone(&error));
            state.last_error = Some(error);
        });
        options.changed.notify_one();
        sleep(backoff.next_delay()).await;
    }
}

/// Returns why the connection is of no more use: it ended, or Redis did not answer a `PING` for twice the time that a
/// request may take. Without the latter, a Redis that is gone without a word would cost every request its timeout.
async fn watch(connection: &Connection, driver: Driver<Transport>, patience: Duration) -> ConnectError {
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

/// Connects to a server, says who we are, and makes sure that it is one that will do.
pub(crate) async fn dial(address: &Address, options: &Options) -> Result<Transport, ConnectError> {
    let dialled = async {
        let mut stream = Transport::connect(address, options.tls.as_ref(), CONNECT_TIMEOUT).await?;
        greet(&mut stream, options).await?;
        Ok(stream)
    };
    timeout(CONNECT_TIMEOUT, dialled).await.unwrap_or(Err(ConnectError::TimedOut))
}

async fn greet(stream: &mut Transport, options: &Options) -> Result<(), ConnectError> {
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
    if options.mode == Mode::Cluster && options.role == Some(Role::Replica) {
        greeting.push(command(&["READONLY"]));
    }
    let must_succeed = greeting.len();
    // See [`super::fence`].
    greeting.push(command(&[b"ECHO", FENCED]));
    greeting.extend([command(&["PING"]), command(&["INFO", "server"])]);
    if options.mode == Mode::Standalone && options.role.is_some() {
        greeting.push(command(&["ROLE"]));
    }
    let replies = exchange(stream, &greeting).await?;
    for (number, reply) in replies.iter().enumerate() {
        let mut reader = Reader(reply);
        match reader.next() {
            Some(Item::Error(text)) if number == must_succeed && text.starts_with(b"NOPERM") => {
                let text = [text, b"; this user needs `+echo`, by which replies are told apart"].concat();
                return Err(ConnectError::refused(&text));
            }
            Some(Item::Error(text)) if number < must_succeed || unusable(text, options.role) => {
                return Err(ConnectError::refused(text));
            }
            // A user that may not ask for INFO is served; the mode is then for the operator to know.
            Some(Item::Bulk(FENCED)) => {}
            Some(Item::Bulk(info)) => match mode(info) {
                Some(found) if found != options.mode => {
                    return Err(ConnectError::Mode { found, wanted: options.mode });
                }
                _ => {}
            },
            // Nor is one refused that may not ask for ROLE: then what the sentinels say has to do.
            Some(Item::Array(_)) => verify_role(reader, options.role)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether an error in answer to a question that need not be answered says that the server is of no use.
fn unusable(error: &[u8], role: Option<Role>) -> bool {
    let code = error.split(|byte| *byte == b' ').next().unwrap_or_default();
    code == b"NOAUTH" || role == Some(Role::Replica) && matches!(code, b"LOADING" | b"MASTERDOWN")
}

/// Reads what `ROLE` answered, behind the head of the array.
fn verify_role(mut answer: Reader<'_>, wanted: Option<Role>) -> Result<(), ConnectError> {
    match (answer.next(), wanted) {
        (Some(Item::Bulk(b"master")), Some(Role::Replica)) => Err(ConnectError::NotReplica),
        (Some(Item::Bulk(b"slave")), Some(Role::Master)) => Err(ConnectError::NotMaster),
        // Host, port, and then the state of the connection to its master.
        (Some(Item::Bulk(b"slave")), Some(Role::Replica)) => match answer.nth(2) {
            Some(Item::Bulk(b"connected")) => Ok(()),
            _ => Err(ConnectError::Detached),
        },
        _ => Ok(()),
    }
}

/// Sends commands over a stream that nobody else uses, and reads their replies.
pub(crate) async fn exchange(
    stream: &mut Transport,
    commands: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, ConnectError> {
    stream.write_all(&commands.concat()).await?;
    stream.flush().await?;
    let (mut received, mut scanner) = (Vec::new(), Scanner::default());
    let mut replies: Vec<Vec<u8>> = Vec::new();
    while replies.len() < commands.len() {
        while scanner.advance(&received).map_err(|error| ConnectError::Nonsense(error.to_string()))? {
            replies.push(received.drain(..scanner.position()).collect());
            scanner.rebase();
        }
        if received.len() > LARGEST_ANSWER {
            return Err(ConnectError::Nonsense("redis does not come to an end".into()));
        }
        if replies.len() < commands.len() && stream.read_buf(&mut received).await? == 0 {
            // A server that has too many clients, or is protected, says so before it hangs up.
            let said = replies.first().and_then(|reply| match Reader(reply).next() {
                Some(Item::Error(text)) => Some(ConnectError::refused(text)),
                _ => None,
            });
            return Err(said.unwrap_or_else(|| ConnectError::Ended(CLOSED.into())));
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
    /// There is no trust, or no understanding.
    Tls(TlsError),
    /// Redis does not want us.
    Refused(String),
    /// What answers is no Redis.
    Nonsense(String),
    /// It is another kind of Redis.
    Mode {
        /// The kind it is.
        found: Mode,
        /// The kind it should be.
        wanted: Mode,
    },
    /// It should be a master.
    NotMaster,
    /// It should be a replica.
    NotReplica,
    /// It is a replica that does not follow its master at the moment.
    Detached,
    /// It took too long.
    TimedOut,
    /// There was one, and it ended.
    Ended(String),
    /// There was one, and Redis did not answer on it.
    Silent,
}

impl ConnectError {
    fn refused(text: &[u8]) -> Self {
        Self::Refused(String::from_utf8_lossy(text).into_owned())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet => f.write_str("not connected yet"),
            Self::Io(error) | Self::Ended(error) | Self::Nonsense(error) => f.write_str(error),
            Self::Tls(error) => fmt::Display::fmt(error, f),
            Self::Refused(text) => write!(f, "redis refuses: {text}"),
            Self::Mode { found: Mode::Standalone, .. } => {
                f.write_str("redis runs for itself: use `redis://`")
            }
            Self::Mode { found: Mode::Cluster, .. } => {
                f.write_str("redis runs in cluster mode: use `redis+cluster://`")
            }
            Self::Mode { found: Mode::Sentinel, .. } => {
                f.write_str("this is a sentinel: use `redis+sentinel://`")
            }
            Self::NotMaster => f.write_str("this is a replica, not the master"),
            Self::NotReplica => f.write_str("this is the master, not a replica"),
            Self::Detached => f.write_str("the replica is not connected to its master"),
            Self::TimedOut => write!(f, "no connection within {CONNECT_TIMEOUT:?}"),
            Self::Silent => f.write_str("redis does not answer"),
        }
    }
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        match TlsError::of(&error) {
            Some(error) => Self::Tls(error),
            None if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::Ended(CLOSED.into()),
            None => Self::Io(error.to_string()),
        }
    }
}

impl From<TlsError> for ConnectError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
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

/// What Redis is to repeat.
const FENCED: &[u8] = b"tollgate";

/// Delays that double from [`SHORTEST_DELAY`] to [`LONGEST_DELAY`]. Each is drawn from its upper half, so that replicas
/// which lost the same Redis do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(super) fn next_delay(&mut self) -> Duration {
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

/// Bytes of answers to what we ask for ourselves: the largest is about the topology.
const LARGEST_ANSWER: usize = 4 << 20;

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

    #[test]
    fn a_server_has_to_be_what_it_is_used_as() {
        let verify = |answer: &str, wanted| {
            let mut reader = Reader(answer.as_bytes());
            reader.next();
            verify_role(reader, Some(wanted))
        };
        let master = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";
        let replica = "*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n$9\r\nconnected\r\n:7\r\n";
        let detached = replica.replace("$9\r\nconnected", "$7\r\nconnect");
        assert_eq!(verify(master, Role::Master), Ok(()));
        assert_eq!(verify(replica, Role::Replica), Ok(()));
        assert_eq!(verify(replica, Role::Master), Err(ConnectError::NotMaster));
        assert_eq!(verify(master, Role::Replica), Err(ConnectError::NotReplica));
        assert_eq!(verify(&detached, Role::Replica), Err(ConnectError::Detached));
        assert_eq!(verify("*1\r\n:1\r\n", Role::Master), Ok(()));
    }
}
