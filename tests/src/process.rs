//! A child process with a log: started, awaited until it answers, stopped when dropped.
//!
//! No process outlives its owner. A dropped [`Process`] is asked to end, waited for, and killed if it does not. When
//! the owner itself is killed, the kernel ends the child (`setpriv --pdeathsig`, where util-linux is present). That
//! signal follows the *thread* that started the child, so each child has a thread of its own, which starts it and then
//! waits for its end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

/// What to run and how it shows that it is ready.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What errors and the log file call it.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to its environment.
    pub env: Vec<(String, String)>,
    /// The directory where it runs and where its log is, as `NAME.log`.
    pub dir: PathBuf,
    /// How it shows that it is ready.
    pub ready: Ready,
    /// How long it may take to become ready.
    pub ready_within: Duration,
}

/// A question over TCP and how its answer begins.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where to ask.
    pub address: SocketAddr,
    /// The bytes sent.
    pub question: Vec<u8>,
    /// The first bytes of the answer.
    pub answer: Vec<u8>,
}

impl Ready {
    /// Ready when `GET path` answers 200.
    pub fn http(address: SocketAddr, path: &str) -> Ready {
        Ready {
            address,
            question: format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
                .into_bytes(),
            answer: b"HTTP/1.1 200".to_vec(),
        }
    }

    /// Ready when it takes connections.
    pub fn listens(address: SocketAddr) -> Ready {
        Ready { address, question: Vec::new(), answer: Vec::new() }
    }

    /// Whether it answers now as it should.
    pub async fn holds(&self) -> bool {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            stream.write_all(&self.question).await?;
            let mut answer = vec![0; self.answer.len()];
            stream.read_exact(&mut answer).await?;
            io::Result::Ok(answer == self.answer)
        };
        matches!(timeout(Duration::from_secs(1), exchange).await, Ok(Ok(true)))
    }
}

/// A running child process.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    running: Running,
}

impl Process {
    /// Starts it and waits until it is ready. Fails early when it ends, with the last lines of its log.
    pub async fn start(spec: Spec) -> Result<Process> {
        let port = spec.ready.address.port();
        crate::ports::expect_free(port, &spec.name)?;
        fs::create_dir_all(&spec.dir).with_context(|| format!("cannot create `{}`", spec.dir.display()))?;
        let running = Running::start(&spec)?;
        let process = Process { spec, running };
        process.wait_ready().await?;
        Ok(process)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.running.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.running.exit.status()
    }

    /// Waits until it ends.
    pub async fn wait(&self) -> ExitStatus {
        self.ending().await
    }

    /// The same as a future of its own, for a task.
    pub fn ending(&self) -> impl Future<Output = ExitStatus> + Send + use<> {
        let exit = Arc::clone(&self.running.exit);
        async move { exit.wait().await }
    }

    /// Waits until it answers, for as long as its [`Spec`] allows.
    pub async fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + self.spec.ready_within;
        loop {
            tokio::select! {
                status = self.wait() => bail!("{} ended ({status}) before it was ready\n{}", self.name(), self.log_tail()),
                holds = self.spec.ready.holds() => if holds { return Ok(()) },
            }
            if Instant::now() > deadline {
                let within = self.spec.ready_within;
                bail!("{} was not ready within {within:?}\n{}", self.name(), self.log_tail());
            }
            // Nothing announces that a port has opened, so asking again is the only way.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to end, as dropping does, without waiting.
    pub fn ask_to_end(&self) {
        // A process that has ended needs no signal; one that is suspended takes it when it goes on.
        let _ = self.signal(Signal::TERM);
        let _ = self.signal(Signal::CONT);
    }

    /// Ends it: SIGTERM, and SIGKILL when that does not help in time.
    pub async fn stop(&self) {
        self.ask_to_end();
        if timeout(GRACE, self.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends it at once with SIGKILL, as a crash would.
    pub async fn kill(&self) {
        let _ = self.signal(Signal::KILL);
        self.wait().await;
    }

    /// Freezes it with SIGSTOP: its connections stay open and nothing answers.
    pub fn suspend(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        // Its threads stop one by one, on a busy machine not at once.
        let begun = Instant::now();
        while !self.is_suspended() {
            ensure!(begun.elapsed() < GRACE, "{} does not stop", self.name());
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets a suspended process go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether all of its threads are suspended.
    pub fn is_suspended(&self) -> bool {
        let is_stopped = |task: io::Result<fs::DirEntry>| {
            let stat = task.and_then(|task| fs::read_to_string(task.path().join("stat"))).unwrap_or_default();
            // The state follows the thread's name, which is in parentheses and may hold anything.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        fs::read_dir(format!("/proc/{}/task", self.id())).is_ok_and(|mut tasks| tasks.all(is_stopped))
    }

    /// Starts it again with the same command on the same port, ending it first if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        crate::ports::expect_free(self.spec.ready.address.port(), &self.spec.name)?;
        self.running = Running::start(&self.spec)?;
        self.wait_ready().await
    }

    /// Where its output goes; restarts append.
    pub fn log_path(&self) -> PathBuf {
        log_path(&self.spec)
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its resident memory in bytes.
    pub fn resident_memory(&self) -> Result<u64> {
        let status = self.proc_file("status")?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        kilobytes.map(|n: u64| n * 1024).with_context(|| format!("{} has no resident memory", self.name()))
    }

    /// The processor time it has used so far, in user and kernel mode.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = self.proc_file("stat")?;
        // The second field is the program's name in parentheses and may hold anything; utime and stime are 14 and 15.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks =
            rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    fn proc_file(&self, file: &str) -> Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.id()))
            .with_context(|| format!("{} is not running", self.name()))
    }

    fn log_tail(&self) -> String {
        format!("the end of `{}`:\n{}", self.log_path().display(), last_lines(&self.log(), 15))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.running.signal(signal).with_context(|| format!("cannot signal {}", self.name()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ask_to_end();
        if !self.running.exit.wait_for(GRACE) {
            let _ = self.signal(Signal::KILL);
            self.running.exit.wait_for(GRACE);
        }
    }
}

/// The last `count` lines of `text`, each indented.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(count)..];
    tail.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// One life of a process, from start to end.
#[derive(Debug)]
struct Running {
    pid: Pid,
    exit: Arc<Exit>,
}

impl Running {
    fn start(spec: &Spec) -> Result<Running> {
        let mut command = command(spec)?;
        let exit = Arc::new(Exit::default());
        let (started, starts) = mpsc::channel();
        let name = spec.name.clone();
        let theirs = Arc::clone(&exit);
        thread::Builder::new().name(format!("waits for {name}")).spawn(move || match command.spawn() {
            Ok(child) => {
                let _ = started.send(Ok(child.id()));
                theirs.follow(child);
            }
            Err(error) => drop(started.send(Err(error))),
        })?;
        let id = starts.recv()?.with_context(|| format!("cannot start `{}`", spec.program.display()))?;
        let pid = i32::try_from(id)
            .ok()
            .and_then(Pid::from_raw)
            .with_context(|| format!("{name} has no process id"))?;
        Ok(Running { pid, exit })
    }

    /// Signals a process that has not been reaped, so the id is still its own.
    fn signal(&self, signal: Signal) -> Result<()> {
        let status = self.exit.status();
        match *status {
            Some(status) => Err(anyhow!("it has ended ({status})")),
            None => Ok(kill_process(self.pid, signal)?),
        }
    }
}

/// How a process ended, once it has; awaited by tasks and by threads.
#[derive(Debug, Default)]
struct Exit {
    status: Mutex<Option<ExitStatus>>,
    threads: Condvar,
    tasks: Notify,
}

impl Exit {
    fn status(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for the end of `child`, and reaps it under the lock that signals take too.
    fn follow(&self, mut child: Child) {
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let ended = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            while matches!(ended(), Err(rustix::io::Errno::INTR)) {}
        }
        let mut status = self.status();
        *status = Some(child.wait().unwrap_or_default());
        drop(status);
        self.threads.notify_all();
        self.tasks.notify_waiters();
    }

    async fn wait(&self) -> ExitStatus {
        loop {
            let woken = self.tasks.notified();
            let status = *self.status();
            match status {
                Some(status) => return status,
                None => woken.await,
            }
        }
    }

    fn wait_for(&self, limit: Duration) -> bool {
        let status = self.status();
        let waited = self.threads.wait_timeout_while(status, limit, |status| status.is_none());
        waited.is_ok_and(|(status, _)| status.is_some())
    }
}

fn command(spec: &Spec) -> Result<Command> {
    let mut command = if setpriv_is_there() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&spec.program);
        command
    } else {
        Command::new(&spec.program)
    };
    let mut log = open_log(&log_path(spec))?;
    writeln!(log, "$ {} {}", spec.program.display(), display_args(&spec.args))?;
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: Ctrl-C in the terminal reaches only the owner, which ends its parts in order.
        .process_group(0);
    Ok(command)
}

fn log_path(spec: &Spec) -> PathBuf {
    spec.dir.join(format!("{}.log", spec.name))
}

fn open_log(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open `{}`", path.display()))
}

fn display_args(args: &[OsString]) -> String {
    args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn setpriv_is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let mut trial = Command::new("setpriv");
        trial
            .args(["--pdeathsig", "KILL", "--", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    })
}

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
