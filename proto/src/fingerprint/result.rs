//! The end of a run: everything that was seen, put together.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::facts::{Allocation, Fact, FamilyFacts, Filtering, Fingerprint, Obstacle, Reach, Sign};
use super::machine::Fingerprinter;
use super::question::{Outcome, Place};
use super::side::{Side, Stage};

impl Fingerprinter {
    /// What is known now.
    pub(super) fn result(&self, now: Instant) -> Fingerprint {
        let v4 = self.v4();
        let v6 = self.sides.iter().position(|side| !side.is_v4());
        let (facts_v4, facts_v6) = (self.family(v4, false), self.family(v6, true));
        let side = v4.and_then(|number| self.sides.get(number));
        let translated = side.is_some_and(|side| side.through_nat64() && side.stage != Stage::Silent);
        let udp_blocked = match (facts_v4.reach, facts_v6.reach) {
            (Reach::Works, _) | (_, Reach::Works) => Fact::Known(false),
            (Reach::NoAnswer, _) | (_, Reach::NoAnswer) => Fact::Known(true),
            (Reach::NoServerAddress, _) => Fact::NotTestable(Obstacle::NoServerAddress),
            (Reach::NoLocalAddress, _) => Fact::NotTestable(Obstacle::NoLocalAddress),
        };
        let absent = facts_v4.translated.obstacle().unwrap_or(Obstacle::NotReached);
        let mut addresses: Vec<(u16, IpAddr)> =
            self.addresses.iter().map(|(ip, count)| (*count, *ip)).collect();
        addresses.sort_by(|a, b| b.cmp(a));
        Fingerprint {
            signs: self.signs(&facts_v4),
            through_nat64: translated,
            addresses: addresses.into_iter().map(|(_, ip)| ip).collect(),
            ports: self.bursts.so_far().unwrap_or(Fact::NotTestable(absent)),
            hairpin: self.hairpin.result().unwrap_or(Fact::NotTestable(absent)),
            udp_blocked,
            rtt: self.rtt,
            packets: self.packets,
            took: now.saturating_duration_since(self.begun),
            v4: facts_v4,
            v6: facts_v6,
        }
    }

    fn family(&self, number: Option<usize>, v6: bool) -> FamilyFacts {
        let Some((number, side)) = number.and_then(|number| Some((number, self.sides.get(number)?))) else {
            let server = if v6 {
                self.config.server_v6
            } else {
                self.config.server_v4
            };
            return match server {
                None if self.config.local.iter().any(|ip| ip.is_ipv6() == v6) => {
                    FamilyFacts::unknown(Reach::NoServerAddress, Obstacle::NoServerAddress)
                }
                _ => FamilyFacts::unknown(Reach::NoLocalAddress, Obstacle::NoLocalAddress),
            };
        };
        let local = self.local(side.main);
        // A translator that does not answer is none.
        let absent = side.seen_at(Place::Main) == Outcome::NoSocket || side.through_nat64();
        match side.stage {
            Stage::Silent if absent => {
                return FamilyFacts::unknown(Reach::NoLocalAddress, Obstacle::NoLocalAddress);
            }
            Stage::Reach | Stage::Silent => {
                return FamilyFacts {
                    local,
                    ..FamilyFacts::unknown(Reach::NoAnswer, Obstacle::NoAnswer)
                };
            }
            Stage::Mapping | Stage::Doubt | Stage::Rest => {}
        }
        FamilyFacts {
            reach: Reach::Works,
            local,
            reflexive: side.seen_at(Place::Main).answered(),
            translated: self
                .translated(number)
                .map_or(Fact::NotTestable(Obstacle::NotReached), Fact::Known),
            mapping: side.mapping(),
            port_dependent: side.port_dependent(),
            filtering: side.filtering(),
            other_port_passes: side.other_port_passes(),
            opener_ttl: if v6 {
                Fact::NotTestable(Obstacle::NotAsked)
            } else {
                self.opener_ttl(side)
            },
        }
    }

    /// The depth, where it means something: with one server address only a filter that goes by port shows it.
    fn opener_ttl(&self, side: &Side) -> Fact<u8> {
        let two = side.seen_at(Place::OtherBoth).answered().is_some();
        match (side.filtering(), self.depth.result()) {
            (_, Fact::NotTestable(why)) => Fact::NotTestable(why),
            (Fact::Known(Filtering::EndpointIndependent), _) => Fact::NotTestable(Obstacle::NothingFilters),
            (Fact::Known(Filtering::AddressAndPortDependent), known) => known,
            (Fact::Known(Filtering::AddressDependent), known) if two => known,
            (Fact::Known(Filtering::AddressDependent), _) => Fact::NotTestable(Obstacle::OneAddress),
            (Fact::NotTestable(why), _) => Fact::NotTestable(why),
        }
    }

    fn signs(&self, v4: &FamilyFacts) -> Vec<Sign> {
        let mut signs = Vec::new();
        let own = v4.local.as_ref().map(SocketAddr::ip);
        signs.extend(own.filter(|ip| is_shared(*ip)).map(Sign::SharedLocal));
        for (ttl, router) in &self.hops {
            let (ttl, router) = (*ttl, *router);
            if is_shared(router) && own.is_none_or(|own| !is_shared(own)) {
                signs.push(Sign::SharedHop { ttl, router });
            } else if ttl > 1 && is_private(router) {
                signs.push(Sign::PrivateHop { ttl, router });
            }
        }
        let beyond = v4.opener_ttl.known().filter(|ttl| *ttl > 2).map(|ttl| ttl - 1);
        signs.extend(beyond.map(Sign::FilterAtHop));
        if matches!(self.bursts.result, Some(Fact::Known(Allocation::Block { .. }))) {
            signs.push(Sign::PortBlock);
        }
        if self.addresses.len() > 1 {
            signs.push(Sign::SeveralAddresses);
        }
        signs
    }
}

/// Is it of the range that carriers use inside (RFC 6598)?
fn is_shared(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]),
        IpAddr::V6(_) => false,
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(_) => false,
    }
}
