//! One family of addresses in a run: the server's places, where they see the main socket, and what the filter lets in.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::facts::{Fact, Filtering, Mapping, Obstacle};
use super::question::{Outcome, Place};
use crate::addr::{Reach, canonical};
use crate::path::SocketId;
use crate::stun::BindingAnswer;

/// How far a family has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first question is under way.
    Reach,
    /// The other places are asked.
    Mapping,
    /// They saw different endpoints, and are asked once more: what one answer says may be wrong.
    Doubt,
    /// Everything else.
    Rest,
    /// There was no answer.
    Silent,
}

/// How often a place is asked at most where its answers contradict each other: of four answers one in ten of which is bent,
/// two alike are missing in one case of 270.
const ASKED_MAX: usize = 4;

/// What is known in one family.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) stage: Stage,
    pub(super) main: SocketId,
    /// The server's first address and port, as it has it itself.
    server: SocketAddr,
    /// How it is addressed from here: the same, or through a translator.
    via: SocketAddr,
    /// The places there are, as they are addressed from here.
    places: [Option<SocketAddr>; 4],
    seen: [Outcome; 4],
    /// How often each place was asked, and every endpoint that it was heard to name.
    asked: [usize; 4],
    heard: [Vec<SocketAddr>; 4],
    pub(super) control: Outcome,
    pub(super) filter_both: Outcome,
    pub(super) filter_port: Outcome,
    /// The answer to that is late.
    pub(super) hushed: bool,
}

impl Side {
    pub(super) fn new(main: SocketId, server: SocketAddr, via: SocketAddr) -> Self {
        Self {
            stage: Stage::Reach,
            main,
            server: canonical(server),
            via: canonical(via),
            places: [Some(canonical(via)), None, None, None],
            seen: [
                Outcome::Waiting,
                Outcome::Unasked,
                Outcome::Unasked,
                Outcome::Unasked,
            ],
            asked: [1, 0, 0, 0],
            heard: Default::default(),
            control: Outcome::Unasked,
            filter_both: Outcome::Unasked,
            filter_port: Outcome::Unasked,
            hushed: false,
        }
    }

    /// Is it IPv4 in the end?
    pub(super) fn is_v4(&self) -> bool {
        self.server.is_ipv4()
    }

    pub(super) fn through_nat64(&self) -> bool {
        self.server.is_ipv4() && self.via.is_ipv6()
    }

    pub(super) fn place(&self, place: Place) -> Option<SocketAddr> {
        self.places.get(place as usize).copied().flatten()
    }

    pub(super) fn seen_at(&self, place: Place) -> Outcome {
        self.seen.get(place as usize).copied().unwrap_or_default()
    }

    pub(super) fn set_seen(&mut self, place: Place, outcome: Outcome) {
        let number = place as usize;
        let (Some(seen), Some(heard), Some(asked)) = (
            self.seen.get_mut(number),
            self.heard.get_mut(number),
            self.asked.get_mut(number),
        ) else {
            return;
        };
        *asked += usize::from(outcome.is_open());
        heard.extend(outcome.answered());
        let voices = |endpoint: &SocketAddr| heard.iter().filter(|other| *other == endpoint).count();
        // One that was heard before stands against silence and against what was heard less often.
        *seen = match (
            heard.iter().rev().max_by_key(|endpoint| voices(endpoint)),
            outcome,
        ) {
            (_, Outcome::Waiting) | (None, _) => outcome,
            (Some(most), _) => Outcome::Answered(*most),
        };
    }

    /// Do two places see different endpoints, so that one wrong answer may be all that tells this network from an easy one?
    pub(super) fn is_doubtful(&self) -> bool {
        let mut answered = self.seen.iter().filter_map(|outcome| outcome.answered());
        let first = answered.next();
        answered.any(|other| Some(other) != first)
    }

    /// Places whose word is to be heard again: they answered, and have not said the same twice.
    pub(super) fn unsure(&self) -> Vec<Place> {
        let unsure = |place: &Place| {
            let heard = self.heard.get(*place as usize).map_or(&[][..], Vec::as_slice);
            let again =
                |(number, one): (usize, &SocketAddr)| heard.iter().skip(number + 1).any(|other| other == one);
            let twice = heard.iter().enumerate().any(again);
            let asked = self.asked.get(*place as usize).copied().unwrap_or_default();
            !heard.is_empty() && !twice && asked < ASKED_MAX
        };
        Place::ALL.into_iter().filter(unsure).collect()
    }

    /// The server's other places: those that are `known` for sure, or else what its first answer names. An address that does
    /// not reach as far as the server's own is none: it may be what a server behind a NAT has inside.
    pub(super) fn learn_places(&mut self, answer: &BindingAnswer, known: Option<&[SocketAddr]>) {
        let other = match known {
            Some(known) => self.other_of(known),
            None => answer.other.map(canonical),
        };
        let Some(other) = other else { return };
        if other.is_ipv4() != self.server.is_ipv4() || other.port() == 0 {
            return;
        }
        let own =
            |ip: IpAddr| ip == self.server.ip() || answer.origin.is_some_and(|origin| origin.ip() == ip);
        let ip = (!own(other.ip())).then_some(other.ip());
        if ip.is_some() && !self.reaches_as_far(other) {
            return;
        }
        let port = (other.port() != self.server.port()).then_some(other.port());
        let at = |ip: IpAddr, port: u16| self.translate(SocketAddr::new(ip, port));
        self.places = [
            Some(self.via),
            port.map(|port| at(self.server.ip(), port)),
            ip.map(|ip| at(ip, self.server.port())),
            ip.zip(port).map(|(ip, port)| at(ip, port)),
        ];
    }

    /// The place that differs most from the server's first one.
    fn other_of(&self, known: &[SocketAddr]) -> Option<SocketAddr> {
        let others = known.iter().copied().map(canonical);
        let others = others.filter(|other| other.is_ipv4() == self.server.is_ipv4() && *other != self.server);
        others.max_by_key(|other| (other.ip() != self.server.ip(), other.port() != self.server.port()))
    }

    /// Is it an address of the same kind of network as the server's: the internet, a private one, this machine?
    pub(super) fn reaches_as_far(&self, addr: SocketAddr) -> bool {
        Reach::of(addr) == Reach::of(self.server)
    }

    /// An IPv4 address as it is reached from here: through the server's own translator, if there is one.
    fn translate(&self, addr: SocketAddr) -> SocketAddr {
        match (self.via.ip(), addr.ip()) {
            (IpAddr::V6(via), IpAddr::V4(ip)) => {
                // RFC 6052 section 2.2 with a prefix of 96 bits.
                let mut octets = via.octets();
                if let Some(tail) = octets.get_mut(12..) {
                    tail.copy_from_slice(&ip.octets());
                }
                SocketAddr::new(Ipv6Addr::from(octets).into(), addr.port())
            }
            _ => addr,
        }
    }

    /// Are all places asked that there are?
    pub(super) fn is_mapped(&self) -> bool {
        !self.seen.iter().any(|outcome| outcome.is_open())
    }

    /// Is a question about the filter under way?
    pub(super) fn is_filter_open(&self) -> bool {
        [self.control, self.filter_both, self.filter_port]
            .into_iter()
            .any(Outcome::is_open)
    }

    /// Do these two places see different endpoints? `None` if one of them saw nothing.
    fn differ(&self, a: Place, b: Place) -> Option<bool> {
        Some(self.seen_at(a).answered()? != self.seen_at(b).answered()?)
    }

    pub(super) fn port_dependent(&self) -> Fact<bool> {
        use Place::{Main, OtherAddress, OtherBoth, OtherPort};
        match (self.differ(Main, OtherPort), self.differ(OtherAddress, OtherBoth)) {
            (Some(true), _) | (_, Some(true)) => Fact::Known(true),
            (Some(false), _) | (_, Some(false)) => Fact::Known(false),
            // Equal where address and port differ: neither matters.
            (None, None) if self.differ(Main, OtherBoth) == Some(false) => Fact::Known(false),
            (None, None) => Fact::NotTestable(self.lacking(OtherPort, Obstacle::NoOtherAddress)),
        }
    }

    pub(super) fn mapping(&self) -> Fact<Mapping> {
        use Place::{Main, OtherAddress, OtherBoth, OtherPort};
        let by_port = self.port_dependent();
        if by_port == Fact::Known(true) {
            return Fact::Known(Mapping::AddressAndPortDependent);
        }
        let pairs = [
            (Main, OtherAddress),
            (Main, OtherBoth),
            (OtherPort, OtherBoth),
            (OtherPort, OtherAddress),
        ];
        let by_address = pairs.into_iter().find_map(|(a, b)| self.differ(a, b));
        match (by_address, by_port) {
            (Some(false), _) => Fact::Known(Mapping::EndpointIndependent),
            (Some(true), Fact::Known(_)) => Fact::Known(Mapping::AddressDependent),
            (Some(true), Fact::NotTestable(why)) => Fact::NotTestable(why),
            (None, Fact::Known(_)) => Fact::NotTestable(self.lacking(OtherAddress, Obstacle::OneAddress)),
            (None, Fact::NotTestable(_)) => {
                Fact::NotTestable(self.lacking(OtherAddress, Obstacle::NoOtherAddress))
            }
        }
    }

    /// Why a comparison with that place was not possible.
    fn lacking(&self, place: Place, absent: Obstacle) -> Obstacle {
        match (self.place(place), self.seen_at(Place::Main)) {
            (_, Outcome::Waiting | Outcome::Unasked) => Obstacle::NotReached,
            (_, Outcome::Silent | Outcome::Refused) => Obstacle::NoAnswer,
            (_, Outcome::NoSocket) => Obstacle::NoSocket,
            (None, _) => absent,
            (Some(_), _) if self.seen_at(place).is_open() => Obstacle::NotReached,
            (Some(_), _) => Obstacle::OtherSilent,
        }
    }

    /// Is the mapping the same for every place of the server that there is?
    pub(super) fn is_stable(&self) -> bool {
        match self.mapping() {
            Fact::Known(mapping) => mapping == Mapping::EndpointIndependent,
            Fact::NotTestable(_) => self.port_dependent() == Fact::Known(false),
        }
    }

    /// Does silence from elsewhere mean that it was filtered?
    fn silence_tells(&self) -> Result<(), Obstacle> {
        match self.control {
            Outcome::Answered(_) => Ok(()),
            // With another port for every destination there is no place where nothing filters, so no control.
            Outcome::Unasked if !self.is_stable() => Ok(()),
            Outcome::Silent | Outcome::Refused | Outcome::NoSocket => Err(Obstacle::NotObeyed),
            Outcome::Unasked | Outcome::Waiting => Err(Obstacle::NotReached),
        }
    }

    /// Would the answer from the other port have passed a router that keeps one port for all, if it let it in?
    pub(super) fn awaits_other_port(&self) -> bool {
        self.is_stable() && self.filter_port.is_open() && self.silence_tells().is_ok()
    }

    pub(super) fn other_port_passes(&self) -> Fact<bool> {
        match (self.filter_port, self.silence_tells()) {
            (Outcome::Waiting, Ok(())) if self.hushed => Fact::Known(false),
            (Outcome::Answered(_), _) => Fact::Known(true),
            (Outcome::Silent, Ok(())) => Fact::Known(false),
            (Outcome::Silent, Err(why)) => Fact::NotTestable(why),
            (Outcome::Refused, _) => Fact::NotTestable(Obstacle::NotObeyed),
            (Outcome::NoSocket, _) => Fact::NotTestable(Obstacle::NoSocket),
            (Outcome::Waiting, _) => Fact::NotTestable(Obstacle::NotReached),
            (Outcome::Unasked, _) => {
                Fact::NotTestable(self.lacking(Place::OtherPort, Obstacle::NoOtherAddress))
            }
        }
    }

    pub(super) fn filtering(&self) -> Fact<Filtering> {
        if matches!(self.filter_both, Outcome::Answered(_)) {
            return Fact::Known(Filtering::EndpointIndependent);
        }
        let by_port = match self.other_port_passes() {
            Fact::Known(passes) => passes,
            Fact::NotTestable(why) => return Fact::NotTestable(why),
        };
        if !by_port {
            return Fact::Known(Filtering::AddressAndPortDependent);
        }
        match (self.filter_both, self.silence_tells()) {
            (Outcome::Silent, Ok(())) => Fact::Known(Filtering::AddressDependent),
            (Outcome::Silent, Err(why)) => Fact::NotTestable(why),
            (Outcome::Refused, _) => Fact::NotTestable(Obstacle::NotObeyed),
            (Outcome::NoSocket, _) => Fact::NotTestable(Obstacle::NoSocket),
            (Outcome::Waiting | Outcome::Answered(_), _) => Fact::NotTestable(Obstacle::NotReached),
            (Outcome::Unasked, _) => Fact::NotTestable(self.lacking(Place::OtherBoth, Obstacle::OneAddress)),
        }
    }
}
