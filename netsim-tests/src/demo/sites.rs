//! Where the two machines of a meeting are: each behind NATs of its own, or with some in common.

use std::net::{IpAddr, Ipv6Addr};

use super::meeting::{Cast, SERVERS};
use crate::fabric::{HostSpec, LabBuilder};
use crate::nat::NatKind;
use crate::sim::Place;

/// Begin of the names of NATs that both machines are behind.
const COMMON: &str = "common";

/// The NAT that the NATs of both machines are behind.
const CARRIER: &str = "carrier";

/// Puts the two machines where they belong.
pub(super) fn settle(builder: LabBuilder, cast: &Cast) -> LabBuilder {
    let ([a, b], [kind_a, kind_b]) = (cast.names, cast.kinds);
    match (cast.place, cast.place.carrier()) {
        (Place::OneNetwork, _) => {
            let (builder, inner) = around(builder, COMMON, kind_a, None);
            let inner = inner.as_deref();
            builder
                .host(a, host(kind_a, (1, 1), inner))
                .host(b, host(kind_a, (1, 2), inner))
        }
        (Place::OneCarrier(_), Some(carrier)) => {
            let builder = builder.nat(CARRIER, carrier);
            let (builder, home_a) = around(builder, a, kind_a, Some(CARRIER.to_owned()));
            let (builder, home_b) = around(builder, b, kind_b, Some(CARRIER.to_owned()));
            builder
                .host(a, host(kind_a, (1, 1), home_a.as_deref()))
                .host(b, host(kind_b, (2, 2), home_b.as_deref()))
        }
        _ => builder
            .host(a, host(kind_a, (1, 1), None))
            .host(b, host(kind_b, (2, 2), None)),
    }
}

/// Adds the NATs of a kind behind `outer`; answers the name of the innermost one, or of `outer` if there are none.
fn around(
    mut builder: LabBuilder,
    prefix: &str,
    kind: &NatKind,
    outer: Option<String>,
) -> (LabBuilder, Option<String>) {
    let mut inner = outer;
    for (level, spec) in kind.chain(&SERVERS).into_iter().enumerate().rev() {
        let name = format!("{prefix}.nat{level}");
        builder = match &inner {
            None => builder.nat(&name, spec),
            Some(outer) => builder.nat_behind(&name, outer, spec),
        };
        inner = Some(name);
    }
    (builder, inner)
}

/// A machine of this kind, the so-and-so-many-th, in a network of this number: behind the NAT `inner` or behind NATs of its own.
fn host(kind: &NatKind, (network, number): (u8, u8), inner: Option<&str>) -> HostSpec {
    let v4 = kind
        .families
        .v4
        .then(|| IpAddr::from([192, 168, network, 10 * number]));
    let v6 = Ipv6Addr::new(
        0x2a01,
        5,
        u16::from(network),
        0,
        0,
        0,
        0,
        0x10 * u16::from(number),
    );
    let v6 = kind.families.v6.then(|| IpAddr::from(v6));
    let at = |address: IpAddr| match inner {
        Some(nat) => HostSpec::lan(nat, address),
        None => HostSpec::behind(kind.chain(&SERVERS), address),
    };
    match (v4, v6) {
        (Some(v4), Some(v6)) => at(v4).and(v6),
        (Some(one), None) | (None, Some(one)) => at(one),
        (None, None) => HostSpec::public::<IpAddr>([]),
    }
}
