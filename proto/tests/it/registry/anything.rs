//! Anything in any order: what must hold whatever the nodes, the disk and the network do.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use knothole_proto::addr::Reach;
use knothole_proto::id::{Instance, Name, Nameplate, PeerId, SessionId};
use knothole_proto::rendezvous::{ConnId, StoreFailed};
use knothole_proto::wire::{FromServer, Hello, PathPolicy, ToServer, Update};

use super::world::{World, hello, key, open, tag};
use crate::support::{addr, ms};

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Connect {
        key: u32,
    },
    Hello {
        conn: usize,
        key: u32,
        name: Option<u8>,
        instance: u64,
        accepting: bool,
    },
    Facts {
        conn: usize,
        reachable: bool,
    },
    Call {
        conn: usize,
        other: u32,
        policy: PathPolicy,
    },
    Leave {
        conn: usize,
        session: usize,
    },
    PairOpen {
        conn: usize,
    },
    PairJoin {
        conn: usize,
        nameplate: u32,
    },
    PairMessage {
        conn: usize,
        nameplate: u32,
        len: usize,
    },
    PairLeave {
        conn: usize,
        nameplate: u32,
    },
    Bye {
        conn: usize,
    },
    Garbage {
        conn: usize,
    },
    Move {
        conn: usize,
        port: u16,
    },
    Disconnect {
        conn: usize,
    },
    Disk {
        works: bool,
    },
    Wait {
        ms: u64,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let conn = || 0..64_usize;
    let policy = proptest::sample::select(vec![
        PathPolicy::Auto,
        PathPolicy::DirectOnly,
        PathPolicy::RelayOnly,
    ]);
    let hello = (
        conn(),
        1..5_u32,
        proptest::option::of(0..3_u8),
        0..3_u64,
        any::<bool>(),
    );
    prop_oneof![
        4 => (1..5_u32).prop_map(|key| Step::Connect { key }),
        6 => hello.prop_map(|(conn, key, name, instance, accepting)| Step::Hello { conn, key, name, instance, accepting }),
        1 => (conn(), any::<bool>()).prop_map(|(conn, reachable)| Step::Facts { conn, reachable }),
        8 => (conn(), 1..5_u32, policy).prop_map(|(conn, other, policy)| Step::Call { conn, other, policy }),
        1 => (conn(), 0..8_usize).prop_map(|(conn, session)| Step::Leave { conn, session }),
        2 => conn().prop_map(|conn| Step::PairOpen { conn }),
        3 => (conn(), 0..4_u32).prop_map(|(conn, nameplate)| Step::PairJoin { conn, nameplate }),
        3 => (conn(), 0..4_u32, 0..600_usize)
            .prop_map(|(conn, nameplate, len)| Step::PairMessage { conn, nameplate, len }),
        1 => (conn(), 0..4_u32).prop_map(|(conn, nameplate)| Step::PairLeave { conn, nameplate }),
        1 => conn().prop_map(|conn| Step::Bye { conn }),
        1 => conn().prop_map(|conn| Step::Garbage { conn }),
        1 => (conn(), 1..100_u16).prop_map(|(conn, port)| Step::Move { conn, port }),
        2 => conn().prop_map(|conn| Step::Disconnect { conn }),
        4 => any::<bool>().prop_map(|works| Step::Disk { works }),
        3 => (0..20_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// The world, and what the steps refer to.
struct Walk {
    world: World,
    conns: Vec<(ConnId, u32)>,
    gone: Vec<ConnId>,
    sessions: Vec<SessionId>,
    holders: BTreeMap<Name, PeerId>,
}

impl Walk {
    fn new() -> Self {
        let mut world = World::new(open());
        world.disk_is_fast = false;
        Self {
            world,
            conns: Vec::new(),
            gone: Vec::new(),
            sessions: Vec::new(),
            holders: BTreeMap::new(),
        }
    }

    fn conn(&self, at: usize) -> Option<(ConnId, u32)> {
        let len = self.conns.len().max(1);
        self.conns.get(at % len).copied()
    }

    fn message(&self, step: &Step) -> Option<(ConnId, ToServer)> {
        let (at, message) = match *step {
            Step::Hello {
                conn,
                key,
                name,
                instance,
                accepting,
            } => {
                let name = name.map(|name| format!("name-{name}"));
                let hello = Hello {
                    instance: Instance(instance),
                    accepting,
                    ..hello(key, name.as_deref())
                };
                (conn, ToServer::Hello(hello))
            }
            Step::Facts { conn, reachable } => {
                let facts = if reachable {
                    hello(1, None).facts
                } else {
                    Update::default()
                };
                (conn, ToServer::Update(facts))
            }
            Step::Leave { conn, session } => {
                let session = *self.sessions.get(session)?;
                (conn, ToServer::Leave { session })
            }
            Step::PairOpen { conn } => (conn, ToServer::PairOpen),
            Step::PairJoin { conn, nameplate } => (
                conn,
                ToServer::PairJoin {
                    nameplate: Nameplate(nameplate),
                },
            ),
            Step::PairMessage { conn, nameplate, len } => {
                let (nameplate, body) = (Nameplate(nameplate), vec![7; len]);
                (conn, ToServer::PairMessage { nameplate, body })
            }
            Step::PairLeave { conn, nameplate } => (
                conn,
                ToServer::PairLeave {
                    nameplate: Nameplate(nameplate),
                },
            ),
            Step::Bye { conn } => (conn, ToServer::Bye),
            _ => return None,
        };
        Some((self.conn(at)?.0, message))
    }

    fn take(&mut self, step: &Step) {
        if let Some((conn, message)) = self.message(step) {
            return self.world.say(conn, message);
        }
        match *step {
            Step::Connect { key } => {
                let conn = self.world.connect(key);
                self.conns.push((conn, key));
            }
            Step::Call { conn, other, policy } => {
                if let Some((conn, key)) = self.conn(conn) {
                    self.world.call(conn, key, other, policy);
                }
            }
            Step::Garbage { conn } => {
                if let Some((conn, _)) = self.conn(conn) {
                    self.world.registry.handle_garbage(conn, self.world.now);
                }
            }
            Step::Move { conn, port } => {
                if let Some((conn, _)) = self.conn(conn) {
                    let from = addr(&format!("6.6.6.6:{port}"));
                    self.world.registry.handle_address(conn, from, self.world.now);
                }
            }
            Step::Disconnect { conn } => {
                if let Some((conn, _)) = self.conn(conn) {
                    self.world.disconnect(conn);
                    self.gone.push(conn);
                }
            }
            Step::Disk { works } if !self.world.writes.is_empty() => {
                self.world.disk(if works { Ok(()) } else { Err(StoreFailed) });
            }
            Step::Wait { ms: time } => self.world.wait(ms(time)),
            _ => {}
        }
    }

    /// What must hold after each step.
    fn check(&mut self) {
        self.world.wait(ms(0));
        let stats = self.world.stats();
        assert_eq!(stats.channels, self.world.channels.len());
        assert!(stats.sessions >= stats.channels && stats.connected <= stats.connections);
        for conn in self.world.channels.values().flatten() {
            let gone = self.gone.contains(conn) || self.world.is_closed(*conn);
            assert!(!gone, "a channel to {conn:?}, which is gone");
        }
        for (conn, number) in self.conns.clone() {
            for message in self.world.told(conn) {
                self.check_message(key(number), &message);
            }
        }
    }

    fn check_message(&mut self, own: PeerId, message: &FromServer) {
        match message {
            FromServer::Welcome(welcome) => {
                if let Some(name) = &welcome.name {
                    let holder = self.holders.entry(name.clone()).or_insert(own);
                    assert_eq!(*holder, own, "{name} has two holders");
                }
            }
            FromServer::Introduction(told) => {
                let reach = told
                    .candidates
                    .iter()
                    .map(|offer| Reach::of(offer.candidate.addr));
                assert!(
                    reach
                        .into_iter()
                        .all(|reach| reach == Reach::Global || reach == Reach::Private)
                );
                assert!(told.policy != PathPolicy::RelayOnly || told.candidates.is_empty());
                assert!(told.policy != PathPolicy::DirectOnly || told.channel.is_none());
                assert!(told.start > told.now);
                let numbers = (1..5).flat_map(|one| (1..5).map(move |other| (one, other)));
                let shared = numbers.filter(|(one, other)| tag(*one, *other) == told.tag);
                assert!(
                    shared
                        .into_iter()
                        .any(|(one, other)| (key(one), key(other)) == (own, told.peer))
                );
                self.sessions.push(told.session);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens_nothing_is_left_behind_and_no_name_has_two_holders(steps in vec(any_step(), 1..200)) {
        let mut walk = Walk::new();
        for step in &steps {
            walk.take(step);
            walk.check();
        }
        walk.world.wait(ms(3 * 3_600_000));
        while !walk.world.writes.is_empty() {
            walk.world.disk(Ok(()));
        }
        walk.world.assert_empty();
    }
}
