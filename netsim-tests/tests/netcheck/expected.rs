//! What must be found behind a kind, told from its description alone.

use knothole_netsim::nat::{
    Filtering, Hairpin, Ipv6, Mapping, NatKind, NatSpec, Pooling, PortAllocation, UdpPolicy,
};
use serde_json::{Value, json};

/// How much may be left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Everything that can be tested is.
    None,
    /// What needs many answers may say that too many were lost.
    Some,
}

/// Compares what was found with what the kind is. Every difference is a line.
pub(crate) fn complaints(kind: &NatKind, found: &Value, loss: Loss) -> Vec<String> {
    let side = kind.side(&[]);
    let nats: &[NatSpec] = &side.nats;
    let mut differences = Vec::new();
    let mut check = |name: &str, found: &Value, right: Value| {
        if *found != right {
            differences.push(format!("{}: {name} is {right}, found {found}", kind.name));
        }
    };
    let blocked = nats.iter().any(|nat| matches!(nat.udp, UdpPolicy::Blocked(_)));
    check("udp_blocked", &found["udp_blocked"], json!(blocked));
    check("class", &found["class"], json!(class(kind, nats, blocked)));
    if blocked {
        return differences;
    }
    let nat64 = nats.iter().any(|nat| nat.ipv6 == Ipv6::Nat64);
    if side.families.v6 {
        let v6 = &found["v6"];
        check("v6.reach", &v6["reach"], json!("works"));
        check("v6.translated", &v6["translated"], json!(false));
        let open = nats.iter().all(|nat| nat.ipv6 == Ipv6::Open);
        let strictest = if open {
            Filtering::EndpointIndependent
        } else {
            filtering(nats)
        };
        check("v6.filtering", &v6["filtering"], json!(filtering_word(strictest)));
    } else {
        check("v6.reach", &found["v6"]["reach"], json!("no-local-address"));
    }
    check("through_nat64", &found["through_nat64"], json!(nat64));
    if !side.families.v4 && !nat64 {
        check("v4.reach", &found["v4"]["reach"], json!("no-local-address"));
        check("ports", &found["ports"], Value::Null);
        return differences;
    }
    let v4 = &found["v4"];
    check("v4.reach", &v4["reach"], json!("works"));
    check("v4.translated", &v4["translated"], json!(!nats.is_empty()));
    check("v4.mapping", &v4["mapping"], json!(mapping_word(mapping(nats))));
    check(
        "v4.filtering",
        &v4["filtering"],
        json!(filtering_word(filtering(nats))),
    );
    check("v4.opener_ttl", &v4["opener_ttl"], json!(opener_ttl(nats)));
    check(
        "public_address",
        &found["public_address"],
        json!(nats.is_empty() || side.families.v6),
    );
    differences.extend(addresses(kind, nats, found));
    differences.extend(ports(kind, nats, found, loss));
    differences.extend(hairpin(kind, nats, found, nat64));
    differences
}

fn class(kind: &NatKind, nats: &[NatSpec], blocked: bool) -> &'static str {
    let side = kind.side(&[]);
    let v4 = side.families.v4 || nats.iter().any(|nat| nat.ipv6 == Ipv6::Nat64);
    if blocked {
        return "udp-blocked";
    }
    if !v4 {
        return "firewall";
    }
    if nats.is_empty() {
        return "open";
    }
    match (mapping(nats), filtering(nats)) {
        (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => "full-cone",
        (Mapping::EndpointIndependent, Filtering::AddressDependent) => "address-restricted",
        (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent) => "port-restricted",
        (Mapping::AddressDependent, _) => "address-dependent",
        (Mapping::AddressAndPortDependent, _) => match outermost(nats) {
            PortAllocation::Counter { .. } => "symmetric-counter",
            PortAllocation::PreserveThenCounter { .. } => "symmetric-preserve-first",
            PortAllocation::Block { .. } => "port-block",
            PortAllocation::Random => "symmetric-random",
            PortAllocation::Preserving => "symmetric",
        },
    }
}

fn ports(kind: &NatKind, nats: &[NatSpec], found: &Value, loss: Loss) -> Vec<String> {
    let ports = &found["ports"];
    let wrong = |what: &str| vec![format!("{}: ports are {what}, found {ports}", kind.name)];
    if ports.is_null() {
        let lost = found["not_testable"]["ports"] == "too-lossy";
        return if loss == Loss::Some && lost {
            Vec::new()
        } else {
            wrong("not found")
        };
    }
    let how = ports["how"].as_str().unwrap();
    let step_is = |step: u16| ports["step"] == json!(step);
    match outermost(nats) {
        PortAllocation::Preserving if how == "preserving" => Vec::new(),
        PortAllocation::Random if how == "random" => Vec::new(),
        PortAllocation::Counter { step, foreign } if how == "counter" && step_is(step) => {
            let rate = ports["foreign_per_s"].as_u64().unwrap_or(u64::MAX);
            // Six standard deviations of a Poisson count over 1.5 s.
            let expected = f64::from(foreign);
            let room = 6.0 * (expected / 1.5).sqrt();
            let off = (u32::try_from(rate).map_or(f64::MAX, f64::from) - expected).abs();
            if off <= room {
                Vec::new()
            } else {
                wrong(&format!("moved by {foreign} foreign flows/s"))
            }
        }
        PortAllocation::PreserveThenCounter { step } if how == "preserve-first" && step_is(step) => {
            Vec::new()
        }
        PortAllocation::Block { size } if how == "block" => {
            let bound = |name: &str| ports[name].as_u64().unwrap();
            let (low, high) = (
                ports["seen"][0].as_u64().unwrap(),
                ports["seen"][1].as_u64().unwrap(),
            );
            let size = u64::from(size);
            let one_block = low / size == high / size;
            // The inferred bounds hold the block but for a little, and not a second one.
            let fit =
                bound("low") <= low && high <= bound("high") && bound("high") - bound("low") <= 2 * size;
            if one_block && fit {
                Vec::new()
            } else {
                wrong(&format!("a block of {size}"))
            }
        }
        other => wrong(&other.to_string()),
    }
}

fn hairpin(kind: &NatKind, nats: &[NatSpec], found: &Value, nat64: bool) -> Vec<String> {
    let testable = !nats.is_empty() && mapping(nats) == Mapping::EndpointIndependent && !nat64;
    // A packet that passes several NATs comes back at the outermost one, with its source there.
    let right: &[&str] = match nats.last().map(|nat| nat.hairpin) {
        _ if !testable => &[],
        Some(Hairpin::External) => &["external"],
        // A machine may drop what comes with its own source.
        Some(Hairpin::Internal) => &["internal", "absent"],
        _ => &["absent"],
    };
    let seen = found["hairpin"].as_str();
    if seen.is_none() == right.is_empty() && seen.is_none_or(|seen| right.contains(&seen)) {
        return Vec::new();
    }
    vec![format!(
        "{}: hairpin is one of {right:?}, found {}",
        kind.name, found["hairpin"]
    )]
}

fn addresses(kind: &NatKind, nats: &[NatSpec], found: &Value) -> Vec<String> {
    let several = nats
        .last()
        .is_some_and(|nat| nat.addresses > 1 && nat.pooling == Pooling::Arbitrary);
    let count = found["addresses"].as_array().unwrap().len();
    if several == (count > 1) && count > 0 {
        return Vec::new();
    }
    vec![format!(
        "{}: several addresses: {several}, found {}",
        kind.name, found["addresses"]
    )]
}

/// The lowest time to live with which a packet comes through the outermost filter; each NAT takes one.
fn opener_ttl(nats: &[NatSpec]) -> Option<usize> {
    let filters = |nat: &NatSpec| nat.filtering != Filtering::EndpointIndependent;
    let stable = mapping(nats) == Mapping::EndpointIndependent;
    let outermost = nats.iter().rposition(filters).filter(|_| stable)?;
    Some(outermost + 2)
}

fn outermost(nats: &[NatSpec]) -> PortAllocation {
    let translating = nats.last().map(|nat| nat.ports);
    translating.unwrap_or(PortAllocation::Preserving)
}

fn mapping(nats: &[NatSpec]) -> Mapping {
    let strictness = |mapping: &Mapping| match mapping {
        Mapping::EndpointIndependent => 0,
        Mapping::AddressDependent => 1,
        Mapping::AddressAndPortDependent => 2,
    };
    let all = nats.iter().map(|nat| nat.mapping);
    all.max_by_key(strictness).unwrap_or(Mapping::EndpointIndependent)
}

fn filtering(nats: &[NatSpec]) -> Filtering {
    let strictness = |filtering: &Filtering| match filtering {
        Filtering::EndpointIndependent => 0,
        Filtering::AddressDependent => 1,
        Filtering::AddressAndPortDependent => 2,
    };
    let all = nats.iter().map(|nat| nat.filtering);
    all.max_by_key(strictness)
        .unwrap_or(Filtering::EndpointIndependent)
}

fn mapping_word(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::AddressDependent => "address-dependent",
        Mapping::AddressAndPortDependent => "address-and-port-dependent",
    }
}

fn filtering_word(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent",
        Filtering::AddressDependent => "address-dependent",
        Filtering::AddressAndPortDependent => "address-and-port-dependent",
    }
}
