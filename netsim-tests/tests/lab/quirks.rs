//! Quirks of NATs and links that whole labs must carry through: several external addresses, corrupted packets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use knothole_netsim::fabric::{AccessLink, HostSpec};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::{Filtering, NatSpec, Pooling};

use crate::support::*;

#[test]
fn answers_find_back_to_every_address_of_a_pool() {
    if !possible() {
        return;
    }
    let pool = NatSpec {
        addresses: 4,
        pooling: Pooling::Arbitrary,
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    };
    let lab = with_server()
        .host("a", HostSpec::behind(vec![pool], LAN_A))
        .build()
        .unwrap();
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let mut used = BTreeSet::<IpAddr>::new();
    for _ in 0..40 {
        let client = any(&lab, "a");
        let external = seen(&client, &server, (SERVERS[0], 3478).into()).expect("reaches the server");
        let back = seen(&server, &client, external);
        assert_eq!(
            back,
            Some((SERVERS[0], 3478).into()),
            "{external} leads to the client"
        );
        used.insert(external.ip());
    }
    assert_eq!(used.len(), 4, "{used:?}");
}

#[test]
fn a_corrupted_datagram_arrives_with_one_bit_flipped() {
    if !possible() {
        return;
    }
    for offload in [true, false] {
        let builder = with_server()
            .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
            .link(
                "a",
                AccessLink {
                    up: LinkSpec::default().with_corruption(1.0),
                    down: LinkSpec::default(),
                },
            );
        let lab = if offload {
            builder
        } else {
            builder.without_offload()
        }
        .build()
        .unwrap();
        let (client, server) = (any(&lab, "a"), socket(&lab, "srv", SERVERS[0], 3478));
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut places = BTreeSet::new();
        for _ in 0..20 {
            client.send_to(&[0x5a; 100], (SERVERS[0], 3478)).unwrap();
            let mut buffer = [0; 200];
            let length = server.recv(&mut buffer).expect("no checksum notices");
            let bent: Vec<(usize, u8)> = buffer[..length]
                .iter()
                .map(|byte| byte ^ 0x5a)
                .enumerate()
                .filter(|(_, bits)| *bits != 0)
                .collect();
            assert_eq!(length, 100);
            assert!(bent.len() == 1 && bent[0].1.is_power_of_two(), "{bent:?}");
            places.extend(bent);
        }
        assert!(places.len() > 10, "always elsewhere: {places:?}");
    }
}
