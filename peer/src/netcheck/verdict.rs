//! What follows from a fingerprint, in sentences: what this network is, with whom direct connections will work, and what
//! would make it better. Claims no more than the facts do.

use knothole_proto::fingerprint::{Allocation, Class, Fact, FamilyFacts, Fingerprint, Reach};

/// The sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What kind of network this is. One sentence.
    pub network: String,
    /// With whom connections will be direct. One sentence.
    pub direct: String,
    /// What would make it better; nothing where it could not be.
    pub advice: Option<String>,
    /// Is something wrong that a person should act on?
    pub problem: bool,
}

/// The sentences for these facts.
pub fn verdict(fingerprint: &Fingerprint) -> Verdict {
    let class = fingerprint.class();
    Verdict {
        network: network(fingerprint, class),
        direct: direct(fingerprint, class),
        advice: advice(fingerprint, class),
        problem: class == Class::UdpBlocked,
    }
}

fn network(fingerprint: &Fingerprint, class: Class) -> String {
    let facts = shown(fingerprint);
    let at = facts
        .reflexive
        .map_or("an unknown address".to_owned(), |seen| seen.ip().to_string());
    let family = if facts.reflexive.is_some_and(|seen| seen.is_ipv6()) {
        "IPv6 "
    } else {
        ""
    };
    let carrier = if fingerprint.carrier_nat() == Fact::Known(true) {
        "a carrier's NAT, "
    } else {
        ""
    };
    let behind = |what: &str| {
        format!("This machine has no public address: it is behind {carrier}{what}, and seen at {at}.")
    };
    match class {
        Class::Open => format!("This machine has a public {family}address, {at}, and anyone can reach it."),
        Class::Firewall => format!(
            "This machine has a public {family}address, {at}, behind a firewall that lets in only whom it has sent to."
        ),
        Class::Public => {
            format!(
                "This machine has a public {family}address, {at}; whether a firewall is before it could not be tested."
            )
        }
        Class::FullCone => behind("a full-cone NAT (one port for everyone, and anyone may send to it)"),
        Class::AddressRestricted => behind(
            "an address-restricted NAT (one port for everyone; whoever was sent to may answer, from any port)",
        ),
        Class::PortRestricted => {
            behind("a port-restricted NAT (one port for everyone; only who was sent to may answer)")
        }
        Class::Cone => behind("a NAT that keeps one port for at least all ports of one address"),
        Class::AddressDependent => behind("a NAT that takes another port for each remote address"),
        Class::SymmetricCounter => {
            behind("a symmetric NAT (another port for each destination) that counts its ports")
        }
        Class::SymmetricPreserveFirst => {
            behind("a symmetric NAT (another port for each destination) that keeps the first port")
        }
        Class::PortBlock => {
            behind("a symmetric NAT (another port for each destination) with a small block of ports")
        }
        Class::SymmetricRandom => behind("a symmetric NAT (another random port for each destination)"),
        Class::Symmetric => behind("a symmetric NAT (another port for each destination)"),
        Class::Translated => behind("a NAT; of which kind could not be tested"),
        Class::UdpBlocked => "Nothing came back: this network blocks UDP, or the server is down.".to_owned(),
        Class::Unknown => "Nothing could be asked.".to_owned(),
    }
}

fn direct(fingerprint: &Fingerprint, class: Class) -> String {
    let sentence = match class {
        Class::Open => "Connections will be direct with every machine that has UDP at all.",
        Class::FullCone => {
            "Connections will be direct with every machine that has UDP, the sooner the other side calls."
        }
        Class::AddressRestricted => "Connections will be direct with every machine that has UDP.",
        Class::PortRestricted | Class::Firewall => {
            "Connections will be direct with everyone but machines behind a symmetric NAT, whose port must be guessed; \
             where that fails they use the relay."
        }
        Class::Public | Class::Cone => {
            "Connections will be direct with everyone but, perhaps, machines behind a symmetric NAT; those use the relay \
             where nothing else works."
        }
        Class::AddressDependent
        | Class::SymmetricCounter
        | Class::SymmetricPreserveFirst
        | Class::PortBlock
        | Class::SymmetricRandom
        | Class::Symmetric => {
            "Connections will be direct with machines that have a public address or an open NAT (full cone, \
             address-restricted); with others a port must be guessed, and where that fails they use the relay."
        }
        Class::Translated => {
            "Connections will be direct with machines that have a public address; others may need the relay."
        }
        Class::UdpBlocked => "Nothing of Knothole works without UDP, the relay included.",
        Class::Unknown => "Nothing can be said about connections.",
    };
    let v6 = fingerprint.v4.reach == Reach::Works && fingerprint.v6.reach == Reach::Works;
    if v6 && fingerprint.v6.translated == Fact::Known(false) && class != Class::Open {
        return format!(
            "{sentence} IPv6 works too, so machines that have it will be reached by it whatever their NAT."
        );
    }
    sentence.to_owned()
}

fn advice(fingerprint: &Fingerprint, class: Class) -> Option<String> {
    let carrier = fingerprint.carrier_nat() == Fact::Known(true)
        || fingerprint
            .signs
            .iter()
            .any(|sign| matches!(sign.word(), "shared-hop" | "port-block" | "several-addresses"));
    let v6 = fingerprint.v6.reach != Reach::Works;
    let sentence = match class {
        Class::Open | Class::Unknown => return None,
        Class::UdpBlocked => {
            "Allow UDP to the server's port in the firewall of this machine and network, or try from another network; if \
             that works, it is this one."
        }
        Class::Firewall | Class::Public => "A UDP port opened in the firewall would let everyone in.",
        Class::FullCone if !v6 => return None,
        Class::FullCone => "Nothing needs to be changed; IPv6 would do without the NAT.",
        _ if carrier && v6 => {
            "The NAT belongs to the provider: ask for IPv6 or a public IPv4 address of your own."
        }
        _ if carrier => "The NAT belongs to the provider: ask for a public IPv4 address of your own.",
        _ => {
            "A UDP port forwarded to this machine in the router, by hand or by UPnP or PCP, would let everyone in."
        }
    };
    Some(sentence.to_owned())
}

/// The family that the class was told from.
fn shown(fingerprint: &Fingerprint) -> &FamilyFacts {
    if fingerprint.v4.reach == Reach::Works {
        &fingerprint.v4
    } else {
        &fingerprint.v6
    }
}

/// How ports are chosen, in words.
pub(crate) fn ports_in_words(ports: &Allocation) -> String {
    match ports {
        Allocation::Preserving => "the inside port is kept".to_owned(),
        Allocation::PreserveFirst { step: Some(step) } => {
            format!("kept for the first destination, then counted by {step}")
        }
        Allocation::PreserveFirst { step: None } => {
            "kept for the first destination, then without order".to_owned()
        }
        Allocation::Counter { step, rate: None } => format!("counted by {step}"),
        Allocation::Counter { step, rate: Some(0) } => format!("counted by {step}, by nobody else"),
        Allocation::Counter {
            step,
            rate: Some(rate),
        } => {
            format!("counted by {step}, with about {rate} new flows/s of others")
        }
        Allocation::Block { low, high, seen } => {
            format!(
                "random within about {low} to {high} (seen: {} to {})",
                seen.0, seen.1
            )
        }
        Allocation::HalfRange { from } => format!("random from {from} on"),
        Allocation::Random => "random".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knothole_proto::fingerprint::{Filtering, Hairpin, Mapping, Obstacle, Sign};

    use super::*;

    fn port_restricted() -> Fingerprint {
        Fingerprint {
            v4: FamilyFacts {
                reach: Reach::Works,
                local: Some("192.168.1.2:4000".parse().unwrap()),
                reflexive: Some("5.5.5.5:4000".parse().unwrap()),
                translated: Fact::Known(true),
                mapping: Fact::Known(Mapping::EndpointIndependent),
                port_dependent: Fact::Known(false),
                filtering: Fact::Known(Filtering::AddressAndPortDependent),
                other_port_passes: Fact::Known(false),
                opener_ttl: Fact::Known(2),
            },
            v6: FamilyFacts::unknown(Reach::NoLocalAddress, Obstacle::NoLocalAddress),
            through_nat64: false,
            addresses: vec!["5.5.5.5".parse().unwrap()],
            ports: Fact::Known(Allocation::Preserving),
            hairpin: Fact::Known(Hairpin::Absent),
            udp_blocked: Fact::Known(false),
            signs: Vec::new(),
            rtt: None,
            packets: 40,
            took: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_home_router_is_told_as_one_and_advice_is_for_who_can_follow_it() {
        let home = port_restricted();
        let told = verdict(&home);
        assert!(
            told.network.contains("no public address") && told.network.contains("5.5.5.5"),
            "{told:?}"
        );
        assert!(
            told.direct.contains("but machines behind a symmetric NAT"),
            "{told:?}"
        );
        assert!(told.advice.unwrap().contains("router") && !told.problem);

        let mut carrier = home;
        carrier.signs = vec![Sign::SharedLocal("100.64.0.9".parse().unwrap())];
        let told = verdict(&carrier);
        assert!(told.network.contains("a carrier's NAT") && told.advice.unwrap().contains("provider"));
    }

    #[test]
    fn a_blocked_network_is_a_problem_and_an_open_one_needs_nothing() {
        let mut blocked = port_restricted();
        blocked.v4 = FamilyFacts::unknown(Reach::NoAnswer, Obstacle::NoAnswer);
        blocked.udp_blocked = Fact::Known(true);
        let told = verdict(&blocked);
        assert!(told.problem && told.network.contains("blocks UDP") && told.advice.is_some());

        let mut open = port_restricted();
        open.v4.translated = Fact::Known(false);
        open.v4.filtering = Fact::Known(Filtering::EndpointIndependent);
        let told = verdict(&open);
        assert!(told.network.contains("a public address") && told.advice.is_none() && !told.problem);
    }

    #[test]
    fn every_class_has_its_sentences() {
        for class in Class::ALL {
            let fingerprint = port_restricted();
            for text in [network(&fingerprint, *class), direct(&fingerprint, *class)] {
                assert!(text.ends_with('.') && text.len() > 20, "{class:?}: {text}");
            }
        }
    }
}
