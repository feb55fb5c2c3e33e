//! Transfers between real processes on loopback: killed at random moments and gone on with, by code, to several machines,
//! through pipes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)] // also in the helpers

#[allow(dead_code)] // another suite uses the rest
#[path = "cli/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use knothole::app::framed;
use knothole::app::transfer::messages::FromReceiver;
use knothole::app::transfer::{Refused, SERVICE};
use knothole::{
    AddressBook, ConnectOptions, Connection, Contact, Home, Identity, Node, NodeConfig, PairSecret,
    PathPolicy, PeerId,
};
use serde_json::Value;
use support::{Machine, Running, World, done_of, fails, noise, stderr, stdout};

/// Kills unless `KNOTHOLE_KILLS` says another number.
const KILLS: u32 = 12;

/// What may go again after a kill, in bytes.
const AGAIN_MAX: u64 = 16 * 1024 * 1024;

/// Rate of the transfers that are killed: one takes some seconds.
const LIMIT: &str = "25MB/s";

#[test]
fn whoever_is_killed_when_the_same_command_goes_on_and_nothing_is_wrong_or_twice() {
    let kills = std::env::var("KNOTHOLE_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let seed = std::env::var("KNOTHOLE_SEED").map_or(1, |text| text.parse().unwrap());
    let mut dice = Dice(seed);
    let (mut done, mut again) = (0, 0);
    while done < kills {
        let mut story = Story::new();
        // A few kills each, or the last ones would come when all is there.
        for _ in 0..6.min(kills - done) {
            let Some(lost) = story.kill(&mut dice, seed) else {
                break;
            };
            again += lost;
            done += 1;
        }
        story.end(seed);
    }
    eprintln!("{done} kills, {again} bytes went again, seed {seed}");
}

struct Story {
    world: World,
    tree: String,
    desk: Machine,
    nas: Machine,
    /// The receiver, if it outlived the last attempt.
    up: Option<Running>,
    /// Did an attempt come to its end?
    is_over: bool,
    /// Bytes that were said to be verified when the last attempt ended.
    verified: u64,
}

impl Story {
    fn new() -> Self {
        let world = World::start();
        let (desk, nas) = world.pair();
        let tree = world.path("tree");
        fs::create_dir_all(format!("{tree}/small")).unwrap();
        fs::write(format!("{tree}/large"), noise(60_000_001)).unwrap();
        fs::write(format!("{tree}/larger"), noise(40_000_000)).unwrap();
        for n in 0..300 {
            fs::write(format!("{tree}/small/{n}"), noise(n * 100)).unwrap();
        }
        Self {
            world,
            tree,
            desk,
            nas,
            up: None,
            is_over: false,
            verified: 0,
        }
    }

    fn start(&mut self) -> (Running, Running) {
        let up = self.up.take();
        let up = up.unwrap_or_else(|| self.nas.up(&["--inbox", &self.world.path("in")]));
        let send = ["send", &self.tree, "--to", "nas", "--limit", LIMIT, "--json"];
        (up, self.desk.spawn(&send))
    }

    /// One attempt, killed; how many bytes the one before had verified and this one had to have again. `None`: it came to its
    /// end before.
    fn kill(&mut self, dice: &mut Dice, seed: u64) -> Option<u64> {
        let (mut up, mut sends) = self.start();
        let resumed = sends.wait_for("accepted")["resumed_bytes"].as_u64().unwrap();
        let lost = self.verified.saturating_sub(resumed);
        assert!(
            lost <= AGAIN_MAX,
            "seed {seed}: {lost} bytes of {} again",
            self.verified
        );
        let until = Instant::now() + Duration::from_millis(dice.below(700));
        self.verified = resumed;
        while Instant::now() < until {
            let event = sends.wait_for_any(&["transfer", "done"]);
            if event["event"] == "done" {
                assert_eq!(sends.finish(), 0);
                up.wait_for("disconnected");
                self.is_over = true;
                return None;
            }
            self.verified = event["bytes"].as_u64().unwrap();
        }
        match dice.below(3) {
            // The sender would try to go on for a while; it goes with its value.
            0 => up.kill(),
            // The receiver does not know yet that the sender is gone when the next one comes.
            1 => {
                sends.kill();
                self.up = Some(up);
            }
            _ => {
                up.kill();
                sends.kill();
            }
        }
        drop(sends);
        self.check_names(seed);
        Some(lost)
    }

    /// An attempt that is left alone.
    fn end(&mut self, seed: u64) {
        if !self.is_over {
            let (mut up, mut sends) = self.start();
            let done = sends.wait_for("done");
            assert_eq!(sends.finish(), 0);
            assert_eq!(done["verified"], true);
            up.wait_for("disconnected");
        }
        self.check_names(seed);
        assert!(
            files(Path::new(&self.tree)) == files(Path::new(&self.world.path("in/tree"))),
            "seed {seed}"
        );
        let left: Vec<_> = fs::read_dir(self.world.path("in"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["tree"], "seed {seed}");
    }

    /// Whatever has its name is what was sent.
    fn check_names(&self, seed: u64) {
        let sent = files(Path::new(&self.tree));
        let arrived = Path::new(&self.world.path("in")).join("tree");
        if !arrived.exists() {
            return;
        }
        for (name, content) in files(&arrived) {
            assert!(sent.get(&name) == Some(&content), "seed {seed}: {name} is wrong");
        }
    }
}

#[test]
fn a_code_brings_a_file_to_a_machine_that_is_not_paired_once() {
    let world = World::start();
    let (desk, lap, third) = (
        world.machine("desk"),
        world.machine("lap"),
        world.machine("third"),
    );
    let file = world.file("photo.raw", &noise(3_000_000));
    let mut sends = desk.spawn(&["send", &file, "--server", &world.url, "--json"]);
    let told = sends.wait_for("code");
    let code = told["code"].as_str().unwrap();
    assert_eq!(told["command"].as_str().unwrap(), format!("knothole recv {code}"));
    let out = world.path("out");
    let unseen = lap.run(&["recv", code, "-o", &out, "--server", &world.url]);
    fails(&unseen, 9, &["terminal", "--yes"]);
    let args = ["recv", "-", "-o", &out, "--server", &world.url, "--yes", "--json"];
    let received = lap.run_with_stdin(&args, &format!("{code}\n"));
    assert_eq!(received.status.code(), Some(0), "{}", stderr(&received));
    let sent = sends.wait_for("done");
    assert_eq!(sends.finish(), 0);
    assert_eq!(sent["blake3"], done_of(&received)["blake3"]);
    assert!(fs::read(world.path("out/photo.raw")).unwrap() == noise(3_000_000));
    let again = third.run(&["recv", code, "-o", &out, "--server", &world.url, "--yes"]);
    fails(&again, 6, &["used before", "new code"]);
    for machine in [&desk, &lap] {
        assert_eq!(
            stdout(&machine.run(&["peers"])),
            "",
            "nobody is paired afterwards"
        );
    }
}

#[test]
fn one_command_sends_to_several_machines() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let lap = world.machine("lap");
    world.introduce(&desk, "desk", &lap, "lap");
    let _nas = nas.up(&["--inbox", &world.path("nas-in")]);
    let _lap = lap.up(&["--inbox", &world.path("lap-in")]);
    let file = world.file("f", &noise(2_000_000));
    let sent = desk.run(&["send", &file, "--to", "nas", "--to", "lap", "--json"]);
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    let text = stdout(&sent);
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut done: Vec<_> = events
        .filter(|event| event["event"] == "done")
        .map(|event| event["peer"].as_str().unwrap().to_owned())
        .collect();
    done.sort();
    assert_eq!(done, ["lap", "nas"]);
    for inbox in ["nas-in/f", "lap-in/f"] {
        assert!(fs::read(world.path(inbox)).unwrap() == noise(2_000_000));
    }
}

#[test]
fn of_several_receivers_each_is_told_apart_until_the_last_has_ended() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let (lap, off) = (world.machine("lap"), world.machine("off"));
    world.introduce(&desk, "desk", &lap, "lap");
    world.introduce(&desk, "desk", &off, "off");
    let _nas = nas.up(&["--inbox", &world.path("nas-in")]);
    let slow = world.path("lap-in");
    let mut slow = lap.spawn(&["recv", "-o", &slow, "--yes", "--limit", "500kB/s", "--json"]);
    slow.wait_for("registered");
    let file = world.file("f", &noise(3_000_000));
    let args = ["send", &file, "--to", "nas", "--to", "lap", "--to", "off"];
    let sent = desk.run(&[&args[..], &["--json"]].concat());
    fails(&sent, 5, &["1 of 3 machines", "off: ", "offline"]);
    let text = stdout(&sent);
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for event in &events {
        assert!(event["event"] == "error" || event["peer"].is_string(), "{event}");
    }
    let of = |kind: &'static str, peer: &'static str| {
        let is = move |event: &Value| event["event"] == kind && event["peer"] == peer;
        events.iter().position(is).zip(events.iter().rposition(is))
    };
    let (failed, _) = of("failed", "off").unwrap();
    assert_eq!(events[failed]["code"], 5);
    assert!(of("done", "off").is_none() && of("failed", "nas").is_none());
    let ended = of("done", "nas").unwrap().0;
    let (_, last) = of("transfer", "lap").unwrap();
    assert!(
        last > ended,
        "the slower one is told of after the end of the other: {text}"
    );
    assert!(of("done", "lap").unwrap().0 > last);

    let again = desk.run(&["send", &file, "--to", "nas", "--to", "off"]);
    fails(&again, 5, &["1 of 2 machines", "off: "]);
    assert!(
        stdout(&again).starts_with("sent f to nas: "),
        "{}",
        stdout(&again)
    );
}

#[test]
fn more_receivers_than_the_server_lets_in_at_once_all_get_their_turn() {
    /// The server lets in ten at once, and then five a second.
    const MACHINES: u8 = 20;
    let world = World::start();
    let (desk, _nas) = world.pair();
    let names: Vec<_> = (0..MACHINES).map(|number| format!("m{number}")).collect();
    let strangers = (0..MACHINES).zip(&names).map(|(number, name)| Contact {
        petname: name.parse().unwrap(),
        id: PeerId::from_bytes([number; 32]),
        secret: PairSecret::from_bytes([number; 32]),
        name: None,
        added: SystemTime::now(),
    });
    let book = Home::at(desk.home()).book();
    AddressBook::update(&book, |book| {
        strangers
            .map(|contact| book.add(contact))
            .collect::<Result<Vec<_>, _>>()
    })
    .unwrap();
    let file = world.file("f", b"x");
    let sent = desk.run(&["send", &file, "--to", &names.join(","), "--json"]);
    // None of them was ever there, which the server says to each.
    fails(&sent, 5, &["20 of 20 machines"]);
    let text = stdout(&sent);
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failed: Vec<_> = events.filter(|event| event["event"] == "failed").collect();
    assert_eq!(failed.len(), usize::from(MACHINES));
    for event in failed {
        assert_eq!(event["code"], 5, "{event}");
    }
}

/// Two machines, and a third that knows both and takes one transfer.
fn one_waits_for_two(world: &World, args: &[&str]) -> (Machine, Machine, Running) {
    let (desk, nas) = world.pair();
    let lap = world.machine("lap");
    world.introduce(&lap, "lap", &nas, "nas");
    let out = world.path("out");
    let mut waits = nas.spawn(&[&["recv", "-o", &out, "--yes", "--json"], args].concat());
    waits.wait_for("registered");
    (desk, lap, waits)
}

#[test]
fn recv_takes_one_transfer_and_whoever_else_sends_is_told_that_it_is_busy() {
    let world = World::start();
    let (desk, lap, mut waits) = one_waits_for_two(&world, &["--limit", "1MB/s"]);
    let (long, short) = (world.file("long", &noise(8_000_000)), world.file("short", b"x"));
    let mut sends = desk.spawn(&["send", &long, "--to", "nas", "--json"]);
    sends.wait_for("accepted");
    fails(
        &lap.run(&["send", &short, "--to", "nas"]),
        9,
        &["declined", "busy"],
    );
    assert_eq!((sends.finish(), waits.finish()), (0, 0), "{}", waits.talk());
    assert!(fs::read(world.path("out/long")).unwrap() == noise(8_000_000));
    assert!(!fs::exists(world.path("out/short")).unwrap());
    assert!(waits.talk().contains("from lap: declined"), "{}", waits.talk());
}

#[test]
fn an_offer_that_breaks_off_before_anything_is_accepted_does_not_end_recv() {
    let world = World::start();
    let (desk, lap, mut waits) = one_waits_for_two(&world, &[]);
    offer_nothing(&lap, &world.url, "nas");
    waits.wait_until_said("from lap: ");
    let file = world.file("f", b"x");
    let sent = desk.run(&["send", &file, "--to", "nas"]);
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    assert_eq!(waits.finish(), 0, "{}", waits.talk());
    assert_eq!(fs::read(world.path("out/f")).unwrap(), b"x");
}

#[test]
fn who_is_busy_says_so_before_anything_of_an_offer_is_read() {
    let world = World::start();
    let (desk, lap, _waits) = one_waits_for_two(&world, &["--limit", "1MB/s"]);
    let long = world.file("long", &noise(60_000_000));
    let mut sends = desk.spawn(&["send", &long, "--to", "nas", "--json"]);
    sends.wait_for("accepted");
    assert_eq!(
        first_answer(&lap, &world.url, "nas", 1),
        FromReceiver::Decline(Refused::Busy)
    );
}

#[test]
fn one_connection_has_one_list_read_at_a_time() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let _up = nas.up(&["--inbox", &world.path("in")]);
    assert_eq!(
        first_answer(&desk, &world.url, "nas", 2),
        FromReceiver::Decline(Refused::Busy)
    );
}

/// Begin so many transfers on one connection with the identity of this machine, say nothing, and see what is answered first.
fn first_answer(machine: &Machine, url: &str, to: &str, transfers: usize) -> FromReceiver {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (node, connection) = connect(machine, url, to).await;
        let mut answers = tokio::task::JoinSet::new();
        for _ in 0..transfers {
            let (send, mut recv) = connection.open(SERVICE).await.unwrap();
            answers.spawn(async move {
                let answer = framed::expect(&mut recv).await.unwrap();
                drop(send);
                answer
            });
        }
        let first = answers.join_next().await.unwrap().unwrap();
        node.shutdown().await;
        first
    })
}

/// Begin a transfer with the identity of this machine, say nothing, and wait until the other side has had enough of it.
fn offer_nothing(machine: &Machine, url: &str, to: &str) {
    /// Most that is read of the answer, in bytes: one message.
    const ANSWER_MAX: usize = 1024;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (node, connection) = connect(machine, url, to).await;
        let (mut send, mut recv) = connection.open(SERVICE).await.unwrap();
        send.finish().unwrap();
        recv.read_to_end(ANSWER_MAX).await.unwrap();
        node.shutdown().await;
    });
}

/// A connection with the identity of this machine.
async fn connect(machine: &Machine, url: &str, to: &str) -> (Node, Connection) {
    let home = Home::at(machine.home());
    let book = AddressBook::load(&home.book()).unwrap();
    let peer = book.resolve(to).unwrap().id;
    let identity = Identity::load(&home.identity()).unwrap();
    let mut config = NodeConfig::new(identity, url.parse().unwrap());
    config.peers = book.to_peers();
    config.accepting = false;
    config.allow_loopback = true;
    let options = ConnectOptions {
        policy: PathPolicy::Auto,
        timeout: Duration::from_secs(60),
    };
    let node = Node::start(config).await.unwrap();
    let connection = node.connect(peer, options).await.unwrap();
    (node, connection)
}

#[test]
fn what_comes_from_a_pipe_goes_into_a_pipe() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let (received, sent) = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| nas.run(&["recv", "-o", "-"]));
        // Until it is there, whoever sends is told that nobody is.
        let deadline = Instant::now() + Duration::from_secs(60);
        let sent = loop {
            let sent = desk.run_with_stdin(
                &["send", "-", "--as", "words.txt", "--to", "nas"],
                "over and out\n",
            );
            if sent.status.code() != Some(5) || Instant::now() > deadline {
                break sent;
            }
        };
        (receiving.join().unwrap(), sent)
    });
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    assert_eq!(received.status.code(), Some(0), "{}", stderr(&received));
    assert_eq!(stdout(&received), "over and out\n");
    assert!(
        stderr(&received).contains("received words.txt"),
        "{}",
        stderr(&received)
    );
    fails(&desk.run(&["send", "-", "x", "--to", "nas"]), 2, &["stdin"]);
}

#[test]
fn thirty_thousand_files_take_little_memory_at_the_receiver() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let tree = world.path("tree");
    for n in 0..30_000_u32 {
        let folder = format!("{tree}/{}", n / 1000);
        if n % 1000 == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(format!("{folder}/{n}"), n.to_string()).unwrap();
    }
    let up = nas.up(&["--inbox", &world.path("in")]);
    let sent = desk.run(&["send", &tree, "--to", "nas", "--json"]);
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    let peak = up.peak_memory();
    eprintln!(
        "30000 files in {} s, {peak} bytes at most",
        done_of(&sent)["seconds"]
    );
    assert!(peak < 100_000_000, "{peak} bytes");
    assert!(files(Path::new(&tree)) == files(Path::new(&world.path("in/tree"))));
}

/// Numbers from a seed (an LCG of Knuth's; its upper bits are what is used).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Every file below a folder, by its path there.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}
