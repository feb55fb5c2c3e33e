//! Hundreds of sudden ends: of the connection, of either program, of the power. Whatever ends when, the next attempt goes on
//! where the last one was, and no file is ever wrong under its name.
//!
//! Every failure names its seed; `KNOTHOLE_SEED=N` runs that one alone, `KNOTHOLE_KILLS=N` sets how many there are.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fate::Life;
use super::*;
use crate::app::transfer::desk::UNKEPT_MAX;
use crate::app::transfer::disk::Disk;
use crate::app::transfer::tree::Geometry;

const MIB: usize = 1024 * 1024;

/// Sudden ends of one run unless told otherwise.
const KILLS: u64 = 300;

/// Sudden ends of one transfer; then it is left alone.
const KILLS_OF_ONE: u64 = 8;

/// What an attempt may cost at most, in bytes that go again.
const AGAIN_MAX: u64 = 16 * 1024 * 1024;

/// How an attempt ends before its time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Connection,
    Sender,
    Receiver,
    Power,
}

#[test]
fn whatever_ends_when_the_next_attempt_goes_on_and_nothing_is_ever_wrong() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(seed) = number("KNOTHOLE_SEED") {
        runtime.block_on(Story::new(seed).run());
        return;
    }
    let wanted = number("KNOTHOLE_KILLS").unwrap_or(KILLS);
    let (mut kills, mut seed) = (0, 0);
    while kills < wanted {
        kills += runtime.block_on(Story::new(seed).run());
        seed += 1;
    }
}

/// One transfer with all its ends.
struct Story {
    seed: u64,
    dice: Dice,
    place: Place,
    /// Most bytes that were said to be verified, since the sources last changed.
    verified: u64,
    /// Bytes of chunks that somebody wrote to without moving them. A journal goes on claiming them until the sender sends the
    /// new ones, and an attempt that is broken off before says that they are there.
    outdated: u64,
    /// Every version of every file that was ever sent.
    versions: HashSet<(PathBuf, Vec<u8>)>,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut story = Self {
            seed,
            dice: Dice(seed),
            place: Place::new(),
            verified: 0,
            outdated: 0,
            versions: HashSet::new(),
        };
        story.make_sources();
        story
    }

    /// Runs until the sender is content; how many ends it took.
    async fn run(mut self) -> u64 {
        for kills in 0.. {
            let last = kills >= KILLS_OF_ONE;
            let content = self.attempt(last).await;
            self.check_names();
            if content {
                self.check_all();
                return kills;
            }
            assert!(!last, "seed {}: it does not come to its end", self.seed);
            if self.dice.below(6) == 0 {
                self.change_sources();
            }
        }
        unreachable!()
    }

    fn make_sources(&mut self) {
        let top = self.place.out("top");
        fs::create_dir_all(top.join("sub/deep")).unwrap();
        for name in ["large", "sub/second"] {
            let len = MIB + self.dice.index(4 * MIB);
            fs::write(top.join(name), self.dice.bytes(len)).unwrap();
        }
        let mut sparse = vec![0; 3 * MIB + 5];
        sparse[MIB / 2] = 1;
        fs::write(top.join("sparse"), sparse).unwrap();
        fs::write(top.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("../large", top.join("sub/link")).unwrap();
        for n in 0..self.dice.below(60) {
            let len = self.dice.index(if n % 10 == 0 { 300_000 } else { 3000 });
            fs::write(top.join(format!("sub/deep/{n}")), self.dice.bytes(len)).unwrap();
        }
        fs::write(self.place.out("beside"), self.dice.bytes(20_000)).unwrap();
    }

    /// Somebody works on the files between two attempts.
    fn change_sources(&mut self) {
        use std::os::unix::fs::FileExt;
        let name = ["top/large", "top/sub/second", "beside", "top/sparse"][self.dice.index(4)];
        let path = self.place.out(name);
        let file = fs::File::options().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        match self.dice.below(3) {
            0 => file.set_len(length / 2).unwrap(),
            1 => file.write_all_at(&self.dice.bytes(5000), length).unwrap(),
            _ => {
                let (bytes, at) = (self.dice.bytes(5000), length / 3);
                file.write_all_at(&bytes, at).unwrap();
                let geometry = Geometry::new(length);
                let touched = geometry.chunk_at(at)..=geometry.chunk_at(at + bytes.len() as u64 - 1);
                self.outdated += touched.map(|chunk| geometry.len(chunk)).sum::<u64>();
            }
        }
        self.verified = 0;
    }

    /// One attempt; `true` if the sender was content.
    async fn attempt(&mut self, undisturbed: bool) -> bool {
        let ends = [End::Connection, End::Sender, End::Receiver, End::Power];
        let end = ends[self.dice.index(4)];
        for (path, content) in tree(&self.place.dir.path().join("out")) {
            self.versions.extend(content.map(|content| (path, content)));
        }
        let sources = Arc::new(scan(&[self.place.out("top"), self.place.out("beside")]).unwrap());
        let total = sources.manifest.bytes();
        let (mut changes, mut budget) = (u64::MAX, i64::MAX);
        match end {
            _ if undisturbed => {}
            // Beyond the middle of what a whole transfer takes, so that the ends of transfers are met too.
            End::Receiver | End::Power => changes = self.dice.below(350),
            End::Connection | End::Sender => budget = self.dice.below(total * 5 / 4).cast_signed(),
        }
        let life = Arc::new(Life::new(
            changes,
            &self.place.dir.path().join("stash"),
            self.dice.clone(),
        ));
        let disk = Disk {
            fate: Some(Arc::clone(&life) as Arc<_>),
        };
        let (wire, [near, far]) = memory::connection(budget);
        let (sent_ears, received_ears) = (Arc::new(Ears::default()), Arc::new(Ears::default()));
        let sender = tokio::spawn(send_over(near, sources, Arc::clone(&sent_ears)));
        let inbox = self.place.open().with_disk(disk);
        let receiver = receive_over(far, inbox, terms(Conflict::Rename), Arc::clone(&received_ears));
        let receiver = tokio::spawn(receiver);
        let sender = self.watch(&wire, &life, sender, end).await;
        let received = self.finish(&life, receiver).await;
        self.judge(&wire, &received_ears, received.as_ref());
        if end == End::Power && !undisturbed {
            life.cut_power();
        }
        sender.is_some_and(|sent| {
            let sent = sent.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
            assert_eq!(sent.others, [], "seed {}", self.seed);
            true
        })
    }

    /// Wait for the sender or for a sudden end. `None`: it did not come to its own end.
    async fn watch(
        &self,
        wire: &memory::Wire,
        life: &Life,
        mut sender: tokio::task::JoinHandle<Result<Sent, SendError>>,
        end: End,
    ) -> Option<Result<Sent, SendError>> {
        let gone = async {
            while !life.is_dead() {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        };
        let sent = tokio::select! {
            sent = &mut sender => Some(sent.unwrap()),
            () = gone => None,
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("seed {}: it hangs", self.seed),
        };
        let sent = match sent {
            Some(sent) => sent,
            None => {
                wire.cut();
                sender.await.unwrap()
            }
        };
        // Whoever is content is so whatever becomes of the other side.
        if sent.is_err() && (life.is_dead() || matches!(end, End::Connection | End::Sender)) {
            wire.cut();
            return None;
        }
        Some(sent)
    }

    async fn finish(
        &self,
        life: &Life,
        receiver: tokio::task::JoinHandle<Result<Received, ReceiveError>>,
    ) -> Option<Received> {
        if life.is_dead() {
            receiver.abort();
            return None;
        }
        let ended = tokio::time::timeout(Duration::from_secs(60), receiver).await;
        let ended = ended.unwrap_or_else(|_| panic!("seed {}: the receiver hangs", self.seed));
        // The task is never aborted here.
        let ended = ended.unwrap();
        life.end();
        ended.ok()
    }

    /// What was said to be verified does not go again, unless it changed.
    fn judge(&mut self, wire: &memory::Wire, ears: &Ears, received: Option<&Received>) {
        let events = ears.0.lock().unwrap();
        let accepted = events.iter().find_map(|event| match event {
            Event::Accepted { resumed, .. } => Some(*resumed),
            _ => None,
        });
        drop(events);
        let Some(resumed) = accepted else { return };
        let seed = self.seed;
        assert!(
            resumed + self.outdated >= self.verified,
            "seed {seed}: {resumed} of {} are left, {} of them changed",
            self.verified,
            self.outdated
        );
        self.verified = ears.verified();
        let came = wire.data.load(Ordering::SeqCst);
        let counted = ears.verified() - resumed.min(ears.verified());
        // Headers of pieces are no bytes of files.
        assert!(
            came <= counted + AGAIN_MAX,
            "seed {seed}: {came} came and {counted} count"
        );
        if let Some(received) = received {
            assert_eq!(received.others, [], "seed {seed}");
        }
    }

    /// Everything that has its name is what the sender has, or had before it changed.
    fn check_names(&self) {
        for (path, content) in tree(&self.place.dir.path().join("in")) {
            let Some(content) = content.filter(|_| !path.starts_with(".knothole-partial")) else {
                continue;
            };
            let shown = path.display().to_string();
            let known = self.versions.contains(&(path, content));
            assert!(known, "seed {}: {shown} is not what was sent", self.seed);
        }
    }

    fn check_all(&self) {
        let (sources, mut received) = (
            tree(&self.place.dir.path().join("out")),
            tree(&self.place.dir.path().join("in")),
        );
        received.retain(|(path, _)| !path.starts_with(".knothole-partial"));
        let paths = |tree: &[(PathBuf, _)]| tree.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&sources), paths(&received), "seed {}", self.seed);
        assert!(sources == received, "seed {}: not what was sent", self.seed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_loses_at_most_16_mib_each_time() {
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let place = Place::new();
        let bytes = dice.bytes(48 * MIB + 77);
        fs::write(place.out("large"), &bytes).unwrap();
        let sources = Arc::new(scan(&[place.out("large")]).unwrap());
        let (mut came, mut kills) = (0, 0);
        loop {
            let changes = if kills < 5 { 8 + dice.below(150) } else { u64::MAX };
            let life = Arc::new(Life::new(changes, &place.dir.path().join("stash"), dice.clone()));
            let fate = Some(Arc::clone(&life) as Arc<_>);
            let inbox = place.open().with_disk(Disk { fate });
            let (wire, [near, far]) = memory::connection(i64::MAX);
            let sender = tokio::spawn(send_over(near, Arc::clone(&sources), Arc::default()));
            let receiver = receive_over(far, inbox, terms(Conflict::Rename), Arc::default());
            let receiver = tokio::spawn(receiver);
            while !life.is_dead() && !receiver.is_finished() {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            let over = !life.is_dead();
            wire.cut();
            receiver.abort();
            let sent = sender.await.unwrap();
            life.cut_power();
            came += wire.data.load(Ordering::SeqCst);
            if over {
                assert!(sent.is_ok(), "seed {seed}: {sent:?}");
                break;
            }
            kills += 1;
        }
        assert!(fs::read(place.inbox("large")).unwrap() == bytes, "seed {seed}");
        let again = came - bytes.len() as u64;
        assert!(
            again <= kills * AGAIN_MAX,
            "seed {seed}: {again} bytes again in {kills} kills"
        );
    }
    const { assert!(UNKEPT_MAX < AGAIN_MAX / 2) }
}
