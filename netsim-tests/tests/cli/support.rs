//! A server in this process, machines with files of their own, and the program running on them as a child process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use knothole_rendezvous::{Config, Server, StartError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::runtime::Runtime;

/// What takes longer is broken. Generous, because tests share two cores.
const SOON: Duration = Duration::from_secs(90);

pub(crate) struct World {
    runtime: Runtime,
    server: Option<Server>,
    listen: SocketAddr,
    dir: tempfile::TempDir,
    pub(crate) url: String,
}

impl World {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let server = runtime
            .block_on(Server::start(config("127.0.0.1:0".parse().unwrap(), dir.path())))
            .unwrap();
        let (url, listen) = (server.ready().server_url.clone(), server.ready().listen[0]);
        Self {
            runtime,
            server: Some(server),
            listen,
            dir,
            url,
        }
    }

    pub(crate) fn stop_server(&mut self) {
        self.runtime.block_on(self.server.take().unwrap().shutdown());
    }

    pub(crate) fn start_server_again(&mut self) {
        let deadline = Instant::now() + SOON;
        let server = loop {
            let started = Server::start(config(self.listen, self.dir.path()));
            match self.runtime.block_on(started) {
                // Sockets of its former self close when the last of its tasks is gone.
                Err(StartError::PortInUse { .. }) if Instant::now() < deadline => {
                    pause(Duration::from_millis(50));
                }
                started => break started.unwrap(),
            }
        };
        assert_eq!(server.ready().server_url, self.url);
        self.server = Some(server);
    }

    /// A machine whose files are nowhere else.
    pub(crate) fn machine(&self, name: &str) -> Machine {
        Machine {
            home: self.dir.path().join("machines").join(name),
            here: self.dir.path().to_owned(),
        }
    }

    /// Two machines that know each other and the server.
    pub(crate) fn pair(&self) -> (Machine, Machine) {
        let (desk, nas) = (self.machine("desk"), self.machine("nas"));
        self.introduce(&desk, "desk", &nas, "nas");
        (desk, nas)
    }

    pub(crate) fn introduce(&self, one: &Machine, one_name: &str, two: &Machine, two_name: &str) {
        let mut shows = one.spawn(&["pair", "--server", &self.url, "--name", one_name, "--json"]);
        let code = shows.wait_for("code")["code"].as_str().unwrap().to_owned();
        let typed = two.run(&["pair", &code, "--server", &self.url, "--name", two_name]);
        assert_eq!(typed.status.code(), Some(0), "{}", stderr(&typed));
        assert_eq!(shows.finish(), 0);
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.dir.path().join(name), bytes).unwrap();
        self.path(name)
    }
}

fn config(listen: SocketAddr, dir: &Path) -> Config {
    Config {
        listen: vec![listen],
        data: Some(dir.join("server")),
        public_host: Some("127.0.0.1".parse().unwrap()),
        relay_total_bits: 10_000_000_000,
        allow_loopback: true,
        ..Config::default()
    }
}

pub(crate) struct Machine {
    home: PathBuf,
    here: PathBuf,
}

impl Machine {
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Run a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.run_with_stdin(args, "")
    }

    pub(crate) fn run_with_stdin(&self, args: &[&str], input: &str) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let (out, err) = (
            drain(child.stdout.take().unwrap()),
            drain(child.stderr.take().unwrap()),
        );
        let status = wait(&mut child, args);
        Output {
            status,
            stdout: out.recv().unwrap(),
            stderr: err.recv().unwrap(),
        }
    }

    /// Start a command that prints JSON Lines.
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        Running::start(self.command(args).stdin(Stdio::null()), self.log(), None)
    }

    /// Start a command whose stdin is a pipe that nobody closes, with this folder for temporary files.
    pub(crate) fn spawn_at_open_pipe(&self, args: &[&str], scratch: &str) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).env("TMPDIR", scratch);
        Running::start(&mut command, self.log(), None)
    }

    /// Start `up`, and wait until it is registered.
    pub(crate) fn up(&self, args: &[&str]) -> Running {
        let mut up = self.spawn(&[&["up", "--json"], args].concat());
        up.wait_for("registered");
        up
    }

    /// `up` with a person at its terminal.
    pub(crate) fn up_at_terminal(&self) -> Running {
        let mut up = self.spawn_at_terminal(&["up", "--json"]);
        up.wait_for("registered");
        up
    }

    /// Start a command with a person at its terminal.
    pub(crate) fn spawn_at_terminal(&self, args: &[&str]) -> Running {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
        let terminal = File::options().read(true).write(true).open(name).unwrap();
        let mut command = self.command(args);
        Running::start(command.stdin(Stdio::from(terminal)), self.log(), Some(person))
    }

    /// `up` that finds a file system of 8 MiB at its inbox; `None` where such a thing may not be mounted.
    pub(crate) fn up_on_small_disk(&self, inbox: &str) -> Option<Running> {
        let mut up = self.on_small_disk(inbox, &["up", "--inbox", inbox, "--json"])?;
        up.wait_for("registered");
        Some(up)
    }

    pub(crate) fn recv_on_small_disk(&self, inbox: &str) -> Option<Running> {
        self.on_small_disk(inbox, &["recv", "-o", inbox, "--json"])
    }

    fn on_small_disk(&self, inbox: &str, args: &[&str]) -> Option<Running> {
        let unshare = ["--mount", "--map-root-user"];
        let allowed = Command::new("unshare")
            .args(unshare)
            .arg("true")
            .output()
            .ok()?
            .status
            .success();
        allowed.then(|| {
            let plain = self.command(args);
            let mut command = Command::new("unshare");
            command.args(unshare).args([
                "sh",
                "-c",
                "mount -t tmpfs -o size=8m small \"$0\" && exec \"$@\"",
                inbox,
            ]);
            command.arg(plain.get_program()).args(plain.get_args());
            command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
            Running::start(
                command.stdin(Stdio::null()).stdout(Stdio::piped()),
                self.log(),
                None,
            )
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
        command.args(["role", "knothole"]).args(args);
        command
            .env("KNOTHOLE_HOME", &self.home)
            .env("KNOTHOLE_ALLOW_LOOPBACK", "1")
            .env("RUST_LOG", "warn");
        command.current_dir(&self.here).stdout(Stdio::piped());
        command
    }

    fn log(&self) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(&self.home).unwrap();
        self.here
            .join(format!("log.{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
    }
}

/// A command under way. Ends with this value.
pub(crate) struct Running {
    child: Child,
    events: Receiver<Value>,
    seen: Vec<Value>,
    log: PathBuf,
    person: Option<OwnedFd>,
}

impl Running {
    fn start(command: &mut Command, log: PathBuf, person: Option<OwnedFd>) -> Self {
        let mut child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let (sender, events) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let event = serde_json::from_str(&line.unwrap()).unwrap();
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            events,
            seen: Vec::new(),
            log,
            person,
        }
    }

    /// The next event of this kind; others are passed over.
    pub(crate) fn wait_for(&mut self, kind: &str) -> Value {
        self.wait_for_any(&[kind])
    }

    /// The next event of one of these kinds.
    pub(crate) fn wait_for_any(&mut self, kinds: &[&str]) -> Value {
        let deadline = Instant::now() + SOON;
        while let Ok(event) = self
            .events
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(event.clone());
            if kinds.iter().any(|kind| event["event"] == *kind) {
                return event;
            }
        }
        panic!("no `{kinds:?}` in {:#?}\n{}", self.seen, self.talk());
    }

    /// Wait until it ends by itself; its exit code.
    pub(crate) fn finish(&mut self) -> i32 {
        let status = wait(&mut self.child, &[]);
        while let Ok(event) = self.events.recv_timeout(SOON) {
            self.seen.push(event);
        }
        status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {}", self.talk()))
    }

    /// How many events of this kind it told so far.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.seen.iter().filter(|event| event["event"] == kind).count()
    }

    pub(crate) fn last_error(&self) -> &Value {
        self.seen.iter().rfind(|event| event["event"] == "error").unwrap()
    }

    /// Wait until it says so on stderr.
    pub(crate) fn wait_until_said(&self, what: &str) {
        let deadline = Instant::now() + SOON;
        while !self.talk().contains(what) {
            assert!(Instant::now() < deadline, "{what:?} is not in {}", self.talk());
            pause(Duration::from_millis(20));
        }
    }

    /// What it said on stderr so far.
    pub(crate) fn talk(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Let it do nothing, as a machine that sleeps.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Let it go on where it was.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Write into its pipe, which stays open.
    pub(crate) fn pipe_in(&mut self, text: &str) {
        let pipe = self.child.stdin.as_mut().unwrap();
        pipe.write_all(text.as_bytes()).unwrap();
    }

    /// Type at its terminal.
    pub(crate) fn type_in(&mut self, text: &str) {
        let person = self.person.as_ref().unwrap().try_clone().unwrap();
        File::from(person).write_all(text.as_bytes()).unwrap();
    }

    /// A folder as this process sees it.
    pub(crate) fn look_into(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.child.id()))
    }

    /// Most memory that it had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Does it listen for Ctrl-C by now, or would that end it at once?
    pub(crate) fn hears_ctrl_c(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        (caught >> (Signal::INT.as_raw() - 1)) & 1 == 1
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            // It may end at this very moment.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn wait(child: &mut Child, args: &[&str]) -> std::process::ExitStatus {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn drain(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        sender.send(bytes)
    });
    receiver
}

/// Bytes that are nowhere the same.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The last event of this kind.
#[track_caller]
pub(crate) fn event_of(output: &Output, kind: &str) -> Value {
    let text = stdout(output);
    let mut events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let last = events.rfind(|event| event["event"] == kind);
    last.unwrap_or_else(|| panic!("no `{kind}` in {text}\n{}", stderr(output)))
}

#[track_caller]
pub(crate) fn done_of(output: &Output) -> Value {
    event_of(output, "done")
}

/// The exit code and words that a failure must have, and what none may show.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(text.contains("try: "), "nothing to try in: {text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// Wait until this is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not yet so: {what}");
        pause(Duration::from_millis(20));
    }
}

#[allow(clippy::disallowed_methods)] // a thread of a test, which no task shares
fn pause(time: Duration) {
    std::thread::sleep(time);
}
