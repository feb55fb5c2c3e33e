//! A registry with everything around it: a clock that the test moves, a disk, and what each connection was told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use knothole_proto::addr::{Candidate, CandidateKind};
use knothole_proto::id::{ChannelId, Instance, PairSecret, PairTag, PeerId, RequestId, SessionId};
use knothole_proto::rendezvous::{
    ClaimId, Command, ConnId, Record, Registry, RegistryConfig, Stats, StoreFailed,
};
use knothole_proto::seed::Seed;
use knothole_proto::wire::{
    Connect, ConnectRefusal, FromServer, Hello, Introduction, PathPolicy, Refusal, ToServer, Update,
};

use crate::support::{addr, epoch};

/// Everything around one registry.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) now: Instant,
    /// Writes that have not come back, if the disk is slow.
    pub(crate) writes: Vec<(ClaimId, Record)>,
    /// Writes come back at once.
    pub(crate) disk_is_fast: bool,
    pub(crate) channels: BTreeMap<ChannelId, [ConnId; 2]>,
    told: BTreeMap<ConnId, Vec<FromServer>>,
    closed: BTreeSet<ConnId>,
    last_conn: u64,
    last_request: u32,
}

/// The key with this number.
pub(crate) fn key(number: u32) -> PeerId {
    PeerId::from_spki(&number.to_be_bytes())
}

/// The tag that these two keys share.
pub(crate) fn tag(one: u32, other: u32) -> PairTag {
    let mut secret = [0; 32];
    secret[..4].copy_from_slice(&one.min(other).to_be_bytes());
    secret[4..8].copy_from_slice(&one.max(other).to_be_bytes());
    PairSecret::from_bytes(secret).tag()
}

/// An open registry that grants relay channels.
pub(crate) fn open() -> RegistryConfig {
    RegistryConfig {
        open: true,
        relay: true,
        ..RegistryConfig::default()
    }
}

/// A hello without a token that accepts introductions from the keys 1 to 9.
pub(crate) fn hello(number: u32, name: Option<&str>) -> Hello {
    let mut accept: Vec<PairTag> = (1..10).map(|other| tag(number, other)).collect();
    accept.sort();
    let host = Candidate {
        kind: CandidateKind::Host,
        addr: addr("10.0.0.2:4660"),
    };
    Hello {
        instance: Instance(u64::from(number)),
        name: name.map(|name| name.parse().unwrap()),
        token: None,
        accepting: true,
        agent: "test/1".to_owned(),
        facts: Update {
            candidates: vec![host],
            accept,
            ..Update::default()
        },
    }
}

impl World {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        Self::with_records(config, Vec::new())
    }

    pub(crate) fn with_records(config: RegistryConfig, records: Vec<Record>) -> Self {
        Self {
            registry: Registry::new(config, records, &Seed::from_number(1), epoch()),
            now: epoch(),
            writes: Vec::new(),
            disk_is_fast: true,
            channels: BTreeMap::new(),
            told: BTreeMap::new(),
            closed: BTreeSet::new(),
            last_conn: 0,
            last_request: 0,
        }
    }

    /// A control connection of this key, from an address of its own.
    pub(crate) fn connect(&mut self, number: u32) -> ConnId {
        let [_, b, c, d] = number.to_be_bytes();
        self.connect_from(number, &format!("5.{b}.{c}.{d}:4660"))
    }

    pub(crate) fn connect_from(&mut self, number: u32, from: &str) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.registry
            .handle_connected(conn, key(number), addr(from), self.now);
        self.carry_out();
        conn
    }

    /// A registered node.
    pub(crate) fn join(&mut self, number: u32, name: Option<&str>) -> ConnId {
        let conn = self.connect(number);
        self.say(conn, ToServer::Hello(hello(number, name)));
        let told = self.told(conn);
        assert!(matches!(told[..], [FromServer::Welcome(_)]), "{told:?}");
        conn
    }

    pub(crate) fn say(&mut self, conn: ConnId, message: ToServer) {
        self.registry.handle_message(conn, message, self.now);
        self.carry_out();
    }

    /// What a connection was told since the last look.
    pub(crate) fn told(&mut self, conn: ConnId) -> Vec<FromServer> {
        self.told.remove(&conn).unwrap_or_default()
    }

    pub(crate) fn is_closed(&self, conn: ConnId) -> bool {
        self.closed.contains(&conn)
    }

    /// The connection was refused for this reason and closed.
    #[track_caller]
    pub(crate) fn assert_refused(&mut self, conn: ConnId, refusal: Refusal) {
        assert_eq!(self.told(conn), [FromServer::Refused(refusal)]);
        assert!(self.is_closed(conn));
    }

    /// Ask for an introduction; what comes of it is read with `introduced` or `refused`.
    pub(crate) fn call(&mut self, conn: ConnId, one: u32, other: u32, policy: PathPolicy) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let connect = Connect {
            request,
            peer: key(other),
            tag: tag(one, other),
            policy,
            guess: true,
        };
        self.say(conn, ToServer::Connect(connect));
        request
    }

    /// The one introduction that a connection was told of.
    #[track_caller]
    pub(crate) fn introduced(&mut self, conn: ConnId) -> Introduction {
        match self.told(conn).pop() {
            Some(FromServer::Introduction(introduction)) => introduction,
            other => panic!("no introduction but {other:?}"),
        }
    }

    /// Why a connection was not introduced.
    #[track_caller]
    pub(crate) fn not_introduced(&mut self, conn: ConnId) -> ConnectRefusal {
        match self.told(conn)[..] {
            [FromServer::ConnectFailed { why, .. }] => why,
            ref other => panic!("not refused but {other:?}"),
        }
    }

    /// Two nodes, introduced: their connections and the session.
    pub(crate) fn pair(&mut self) -> (ConnId, ConnId, SessionId) {
        let (one, two) = (self.join(1, None), self.join(2, None));
        self.call(one, 1, 2, PathPolicy::Auto);
        let session = self.introduced(one).session;
        self.told(two);
        (one, two, session)
    }

    pub(crate) fn disconnect(&mut self, conn: ConnId) {
        self.registry.handle_disconnected(conn, self.now);
        self.carry_out();
    }

    /// The oldest write comes back.
    pub(crate) fn disk(&mut self, result: Result<(), StoreFailed>) {
        let (claim, _) = self.writes.remove(0);
        self.registry.handle_stored(claim, result, self.now);
        self.carry_out();
    }

    /// Time passes, with every deadline at its moment.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.registry.poll_timeout().filter(|(at, _)| *at <= end) {
            assert!(at >= self.now, "a deadline in the past");
            self.now = at;
            self.registry.handle_timeout(at);
            self.carry_out();
        }
        self.now = end;
    }

    /// Time passes, while these connections give signs of life.
    pub(crate) fn wait_alive(&mut self, time: Duration, alive: &[ConnId]) {
        let end = self.now + time;
        while self.now < end {
            self.wait(Duration::from_secs(15).min(end - self.now));
            for conn in alive {
                self.say(
                    *conn,
                    ToServer::Time {
                        sent_us: 1,
                        rtt_us: 0,
                    },
                );
                if let Some(told) = self.told.get_mut(conn) {
                    told.retain(|message| !matches!(message, FromServer::Time { .. }));
                }
            }
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.registry.stats()
    }

    /// Everything that comes and goes is gone.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let Stats {
            connections,
            connected,
            claims,
            sessions,
            channels,
            nameplates,
            nameplates_resting,
            deadlines,
            ..
        } = self.stats();
        let gauges = [
            connections,
            connected,
            claims,
            sessions,
            channels,
            nameplates,
            nameplates_resting,
            deadlines,
        ];
        assert_eq!(gauges, [0; 8]);
        assert_eq!(self.channels, BTreeMap::new());
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.registry.poll_command() {
            match command {
                Command::Send { conn, message } => {
                    assert!(!self.is_closed(conn), "{message:?} after the end");
                    self.told.entry(conn).or_default().push(message);
                }
                Command::Close { conn } => assert!(self.closed.insert(conn), "closed twice"),
                Command::Store { claim, .. } if self.disk_is_fast => {
                    self.registry.handle_stored(claim, Ok(()), self.now);
                }
                Command::Store { claim, record } => self.writes.push((claim, record)),
                Command::OpenChannel { channel, ends } => {
                    assert_eq!(self.channels.insert(channel, ends), None, "opened twice");
                }
                Command::CloseChannel { channel } => {
                    assert!(self.channels.remove(&channel).is_some(), "closed but not open");
                }
            }
        }
    }
}
