//! The table of plans: what two nodes do in a round, told from what is known of both networks. One function, no state.
//!
//! Both sides put the same two [`Network`]s in and get the same plan out. Whatever the plan, the addresses that the peer
//! offered are probed as well: the local network, IPv6, mapped ports.
//!
//! | | keeps its port, open to all | keeps it, filters by address | keeps it, filters by port | counts | first kept | block | random |
//! |---|---|---|---|---|---|---|---|
//! | **open to all** | dial | dial | dial | reverse | reverse | reverse | reverse |
//! | **by address** | | punch | punch | reverse | reverse | reverse | reverse |
//! | **by port** | | | punch | bracket | fresh | block | birthday |
//! | **counts** | | | | steps | steps | hopeless | hopeless |
//! | **first kept** | | | | | fresh | hopeless | hopeless |
//! | **block, random** | | | | | | hopeless | hopeless |
//!
//! A NAT that maps by destination and yet lets in anyone, or whoever it has sent to, is dialled like one that keeps its
//! port. Where one side is not known yet it counts as one whose port is not: whoever lets it in waits for it, one whose own port
//! cannot be foreseen dials it, and only with a filter by port, or nothing known at all, both send. Where it is known that one side
//! keeps its port and the other does not, but not yet whom the first lets in, the second dials: that takes a few packets, and no port
//! is guessed before it is known that one must be. A further round of the same two takes the next best where there is one: punch
//! becomes fresh, reverse through a filter by address, or one that is still not known, becomes what a filter by port would get, fresh
//! becomes bracket or steps.

use crate::wire::Role;
use crate::wire::network::{Filtering, Mapping, Network, Ports};

/// What both sides do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Plan {
    /// Too little is known of one side: both send at once.
    Unknown,
    /// One side lets anyone in.
    Dial,
    /// Both keep their ports: both send at once.
    Punch,
    /// One side lets the other in at the endpoint that the server saw, wherever its packets come from; that side waits, because
    /// what it sends first might leave from another endpoint.
    Reverse {
        /// Who sends first.
        by: Role,
    },
    /// Both bind fresh sockets, tell their ports, open, and fire when the other has opened.
    Fresh,
    /// The ports of one side are counted: its openers lie between two readings of the counter.
    Bracket {
        /// Whose.
        hard: Role,
    },
    /// The ports of one side are random in a small block: a few openers, and probes over the block.
    Block {
        /// Whose.
        hard: Role,
    },
    /// The ports of one side are random: many openers, and probes of random ports.
    Birthday {
        /// Whose.
        hard: Role,
    },
    /// The ports of both are counted: one steps by one, the other by two (Klinec and Matyas 2014).
    Steps,
    /// Ports would have to be guessed, and one side or the limits of the moment do not allow it.
    NoGuess,
    /// Nobody can foresee either side's port.
    Hopeless,
}

impl Plan {
    /// The word in machine-readable output and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Dial => "dial",
            Self::Punch => "punch",
            Self::Reverse { .. } => "reverse",
            Self::Fresh => "fresh",
            Self::Bracket { .. } => "bracket",
            Self::Block { .. } => "block",
            Self::Birthday { .. } => "birthday",
            Self::Steps => "steps",
            Self::NoGuess => "no-guess",
            Self::Hopeless => "hopeless",
        }
    }

    /// Why it was chosen, as a sentence without a full stop.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "the network of one side is not known yet, so both send at once",
            Self::Dial => "one side lets anyone in, so a packet to it is enough",
            Self::Punch => "both routers keep one port for all destinations, so both send at once",
            Self::Reverse { .. } => {
                "the port of one side cannot be known beforehand, so it dials, and the other answers to where that comes from"
            }
            Self::Fresh => "both take fresh ports, so that nothing that was sent before stands in the way",
            Self::Bracket { .. } => {
                "one router counts its ports, so they lie between two readings of the counter"
            }
            Self::Block { .. } => {
                "one router takes random ports from a small block, so a few dozen probes find one"
            }
            Self::Birthday { .. } => {
                "one router takes random ports, so it opens many and the other side tries until two meet"
            }
            Self::Steps => "both routers count their ports, so one side steps by one and the other by two",
            Self::NoGuess => "ports would have to be guessed, which one side or a limit does not allow now",
            Self::Hopeless => "both routers take ports that nobody can foresee",
        }
    }

    /// Does it take more than 50 packets of a side? Then both must agree.
    pub const fn guesses(self) -> bool {
        matches!(self, Self::Block { .. } | Self::Birthday { .. } | Self::Steps)
    }
}

/// The plan for a round. `networks` are those of caller and callee; `again`: the two have tried before without success;
/// `guess`: both sides, the server and all limits allow guessing now.
pub fn plan(networks: [Network; 2], again: bool, guess: bool) -> Plan {
    let [caller, callee] = networks;
    match networks.map(keeps_port) {
        [None, _] | [_, None] if again => Plan::Fresh,
        [None, None] => Plan::Unknown,
        [Some(keeps), None] => one_known(caller, keeps, Role::Caller),
        [None, Some(keeps)] => one_known(callee, keeps, Role::Callee),
        [Some(true), Some(true)] => both_keep(networks, again),
        [Some(true), Some(false)] => one_keeps(caller, callee, Role::Callee, again, guess),
        [Some(false), Some(true)] => one_keeps(callee, caller, Role::Caller, again, guess),
        [Some(false), Some(false)] => neither_keeps(networks, again, guess),
    }
}

/// May ports have to be guessed to meet? Then the attempt is worth asking for permission.
pub fn wants_guess(networks: [Network; 2], again: bool) -> bool {
    plan(networks, again, true).guesses()
}

/// Is enough known of both networks for the plan that is theirs? The mapping of each; and where one keeps its port and the other
/// does not, whom the first lets in.
pub fn is_settled(networks: [Network; 2]) -> bool {
    let [caller, callee] = networks;
    let filters = |network: Network| network.filtering != Filtering::Unknown;
    match networks.map(keeps_port) {
        [None, _] | [_, None] => false,
        [Some(true), Some(false)] => filters(caller),
        [Some(false), Some(true)] => filters(callee),
        _ => true,
    }
}

/// The networks are known well enough now. Does their plan do anything that `tried`, which is under way, does not?
pub fn is_worth_a_round(networks: [Network; 2], tried: Option<Plan>) -> bool {
    let [caller, callee] = networks;
    let waiting = |by: Role| match by {
        Role::Caller => (callee, caller),
        Role::Callee => (caller, callee),
    };
    match (plan(networks, false, true), tried) {
        (Plan::Dial | Plan::Punch | Plan::Hopeless, _) => false,
        // Both send, which opens the way in as well: what the waiting side sends leaves from the port that is aimed at.
        (Plan::Reverse { by }, Some(Plan::Unknown)) => keeps_port(waiting(by).0) != Some(true),
        // The other way round is as good, if it is known by now that it is open.
        (Plan::Reverse { .. }, Some(Plan::Reverse { by })) => {
            let (inner, outer) = waiting(by);
            !lets_in(inner, outer, false)
        }
        (better, tried) => tried != Some(better),
    }
}

fn keeps_port(network: Network) -> Option<bool> {
    match network.mapping {
        Mapping::Unknown => None,
        Mapping::None | Mapping::Independent => Some(true),
        Mapping::Address | Mapping::AddressAndPort => Some(false),
    }
}

/// What is known of one side may be enough: whoever it lets in need not be known, and where its own port cannot be foreseen nobody
/// finds it, but it may find the other.
fn one_known(known: Network, keeps: bool, role: Role) -> Plan {
    if lets_in(known, Network::default(), false) {
        Plan::Reverse { by: role.other() }
    } else if keeps {
        Plan::Unknown
    } else {
        Plan::Reverse { by: role }
    }
}

fn both_keep(networks: [Network; 2], again: bool) -> Plan {
    if networks
        .iter()
        .any(|network| network.filtering == Filtering::Independent)
    {
        Plan::Dial
    } else if again {
        Plan::Fresh
    } else {
        Plan::Punch
    }
}

fn one_keeps(easy: Network, hard: Network, role: Role, again: bool, guess: bool) -> Plan {
    // It may be open, and to try it costs less than to guess in vain.
    let untold = easy.filtering == Filtering::Unknown && !again;
    if untold || lets_in(easy, hard, again) {
        return Plan::Reverse { by: role };
    }
    if lets_in(hard, easy, again) {
        return Plan::Reverse { by: role.other() };
    }
    match hard.ports {
        Ports::PreserveFirst { .. } if !again => Plan::Fresh,
        Ports::Counter { .. } => Plan::Bracket { hard: role },
        Ports::PreserveFirst { step } if step != 0 => Plan::Bracket { hard: role },
        _ if !guess => Plan::NoGuess,
        Ports::Block { .. } => Plan::Block { hard: role },
        _ => Plan::Birthday { hard: role },
    }
}

fn neither_keeps(networks: [Network; 2], again: bool, guess: bool) -> Plan {
    let [caller, callee] = networks;
    let first = |network: Network| matches!(network.ports, Ports::PreserveFirst { .. });
    let counts = |network: Network| {
        network.mapping == Mapping::AddressAndPort
            && match network.ports {
                Ports::Counter { .. } => true,
                Ports::PreserveFirst { step } => step != 0,
                _ => false,
            }
    };
    if lets_in(caller, callee, again) {
        Plan::Reverse { by: Role::Callee }
    } else if lets_in(callee, caller, again) {
        Plan::Reverse { by: Role::Caller }
    } else if first(caller) && first(callee) && !again {
        Plan::Fresh
    } else if counts(caller) && counts(callee) {
        if guess { Plan::Steps } else { Plan::NoGuess }
    } else {
        Plan::Hopeless
    }
}

/// Does a packet from a port that nobody foresaw come in at the endpoint that the server saw?
fn lets_in(inner: Network, outer: Network, again: bool) -> bool {
    match inner.filtering {
        Filtering::Independent => true,
        // Not where the packet may come from another address, nor where it was tried.
        Filtering::Address => !outer.several_addresses && !again,
        Filtering::Unknown | Filtering::AddressAndPort => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTER: Ports = Ports::Counter { step: 1, rate: 0 };
    const FIRST: Ports = Ports::PreserveFirst { step: 1 };
    const BLOCK: Ports = Ports::Block {
        low: 1024,
        high: 1535,
    };

    fn cone(filtering: Filtering) -> Network {
        Network {
            mapping: Mapping::Independent,
            filtering,
            ports: Ports::Preserving,
            ..Network::default()
        }
    }

    fn hard(ports: Ports) -> Network {
        Network {
            mapping: Mapping::AddressAndPort,
            filtering: Filtering::AddressAndPort,
            ports,
            ..Network::default()
        }
    }

    fn words(networks: [Network; 2]) -> [&'static str; 2] {
        [false, true].map(|again| plan(networks, again, true).word())
    }

    #[test]
    fn the_table_of_the_page_comes_out_and_so_does_what_a_further_round_tries() {
        let [open, address, port] = [
            Filtering::Independent,
            Filtering::Address,
            Filtering::AddressAndPort,
        ]
        .map(cone);
        for (one, other, expected) in [
            (open, port, ["dial", "dial"]),
            (address, address, ["punch", "fresh"]),
            (port, port, ["punch", "fresh"]),
            (open, hard(Ports::Random), ["reverse", "reverse"]),
            (address, hard(Ports::Random), ["reverse", "birthday"]),
            (address, hard(COUNTER), ["reverse", "bracket"]),
            (port, hard(COUNTER), ["bracket", "bracket"]),
            (port, hard(FIRST), ["fresh", "bracket"]),
            (port, hard(BLOCK), ["block", "block"]),
            (port, hard(Ports::From(32768)), ["birthday", "birthday"]),
            (port, hard(Ports::Unknown), ["birthday", "birthday"]),
            (
                cone(Filtering::Unknown),
                hard(Ports::Random),
                ["reverse", "birthday"],
            ),
            (cone(Filtering::Unknown), hard(COUNTER), ["reverse", "bracket"]),
            (hard(COUNTER), hard(COUNTER), ["steps", "steps"]),
            (hard(COUNTER), hard(FIRST), ["steps", "steps"]),
            (hard(FIRST), hard(FIRST), ["fresh", "steps"]),
            (hard(COUNTER), hard(Ports::Random), ["hopeless", "hopeless"]),
            (hard(BLOCK), hard(BLOCK), ["hopeless", "hopeless"]),
            (Network::default(), port, ["unknown", "fresh"]),
            (Network::default(), Network::default(), ["unknown", "fresh"]),
            (Network::default(), open, ["reverse", "fresh"]),
            (Network::default(), address, ["reverse", "fresh"]),
            (Network::default(), hard(COUNTER), ["reverse", "fresh"]),
        ] {
            assert_eq!(words([one, other]), expected, "{one:?} {other:?}");
            assert_eq!(words([other, one]), expected, "the other way round");
        }
    }

    #[test]
    fn the_side_that_is_hard_is_named_whoever_calls() {
        let (easy, hard) = (cone(Filtering::AddressAndPort), hard(COUNTER));
        assert_eq!(
            plan([easy, hard], false, true),
            Plan::Bracket { hard: Role::Callee }
        );
        assert_eq!(
            plan([hard, easy], false, true),
            Plan::Bracket { hard: Role::Caller }
        );
    }

    #[test]
    fn with_one_side_unknown_the_one_that_can_be_found_waits() {
        let unknown = Network::default();
        for (known, by) in [
            (cone(Filtering::Independent), Role::Caller),
            (cone(Filtering::Address), Role::Caller),
            (hard(Ports::Random), Role::Callee),
        ] {
            assert_eq!(plan([unknown, known], false, true), Plan::Reverse { by });
            let by = by.other();
            assert_eq!(plan([known, unknown], false, true), Plan::Reverse { by });
        }
    }

    #[test]
    fn two_networks_are_settled_once_it_is_known_whether_a_port_must_be_guessed() {
        let unknown = Network::default();
        let [open, port, unasked] = [
            Filtering::Independent,
            Filtering::AddressAndPort,
            Filtering::Unknown,
        ]
        .map(cone);
        let random = hard(Ports::Random);
        for (one, other, settled) in [
            (unknown, port, false),
            (unasked, random, false),
            (port, random, true),
            (open, random, true),
            (unasked, unasked, true),
            (random, random, true),
        ] {
            assert_eq!(is_settled([one, other]), settled, "{one:?} {other:?}");
            assert_eq!(is_settled([other, one]), settled, "the other way round");
        }
    }

    #[test]
    fn a_round_is_not_begun_anew_for_what_the_one_under_way_does_too() {
        let [address, port] = [Filtering::Address, Filtering::AddressAndPort].map(cone);
        let random = hard(Ports::Random);
        let dials = Plan::Reverse { by: Role::Callee };
        for (networks, tried, worth) in [
            ([address, random], Plan::Unknown, false),
            ([address, random], dials, false),
            ([port, port], Plan::Unknown, false),
            ([port, random], Plan::Unknown, true),
            ([port, random], dials, true),
        ] {
            assert_eq!(
                is_worth_a_round(networks, Some(tried)),
                worth,
                "{networks:?} {tried:?}"
            );
        }
        let open = Network {
            filtering: Filtering::Independent,
            ..random
        };
        assert!(
            is_worth_a_round([open, random], Some(Plan::Unknown)),
            "what the open side sent left from another port than the one that is aimed at"
        );
        assert!(is_worth_a_round([address, random], None), "nothing is under way");
        let lets_in = Network {
            filtering: Filtering::Address,
            ..random
        };
        for (network, worth) in [(lets_in, false), (random, true)] {
            let networks = [address, network];
            let dialled = Plan::Reverse { by: Role::Caller };
            assert_eq!(plan(networks, false, true), dials);
            assert_eq!(is_worth_a_round(networks, Some(dialled)), worth, "{network:?}");
        }
    }

    #[test]
    fn nothing_is_guessed_without_leave_and_what_needs_no_guess_needs_no_leave() {
        let easy = cone(Filtering::AddressAndPort);
        assert_eq!(plan([easy, hard(Ports::Random)], false, false), Plan::NoGuess);
        assert_eq!(plan([easy, hard(BLOCK)], false, false), Plan::NoGuess);
        assert_eq!(plan([hard(COUNTER), hard(COUNTER)], false, false), Plan::NoGuess);
        assert!(wants_guess([easy, hard(Ports::Random)], false));
        assert!(!wants_guess([easy, hard(COUNTER)], false));
        assert_eq!(plan([easy, hard(COUNTER)], false, false).word(), "bracket");
    }

    #[test]
    fn an_open_door_is_used_also_where_ports_change_and_a_moving_address_closes_one() {
        let open = Network {
            filtering: Filtering::Independent,
            ..hard(Ports::Random)
        };
        let moving = Network {
            several_addresses: true,
            ..hard(Ports::Random)
        };
        assert_eq!(
            plan([open, hard(Ports::Random)], true, true),
            Plan::Reverse { by: Role::Callee }
        );
        assert_eq!(
            plan([open, cone(Filtering::AddressAndPort)], false, true),
            Plan::Reverse { by: Role::Callee },
            "and by one that keeps its port, too"
        );
        assert_eq!(
            plan([cone(Filtering::Address), moving], false, true),
            Plan::Birthday { hard: Role::Callee }
        );
        let by_address = Network {
            mapping: Mapping::Address,
            ..hard(COUNTER)
        };
        assert_eq!(
            plan([by_address, by_address], false, true),
            Plan::Hopeless,
            "one port for all ports of the peer: nothing to step through"
        );
    }
}
