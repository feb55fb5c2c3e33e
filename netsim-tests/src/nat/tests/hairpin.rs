//! Packets to the own external address.

use super::*;

#[test]
fn hairpinned_packets_show_the_source_that_the_box_describes() {
    let neighbour = at("192.168.1.11:6000");
    for (hairpin, source) in [
        (Hairpin::Internal, inside()),
        (Hairpin::External, at("5.5.16.2:5000")),
    ] {
        let mut nat = boxed(NatSpec {
            hairpin,
            filtering: Filtering::EndpointIndependent,
            ..NatSpec::default()
        });
        let now = Instant::now();
        let target = send(&mut nat, neighbour, server(), now);
        let verdict = nat.outbound(Flow::udp(inside(), target), now);
        assert_eq!(verdict, Verdict::Hairpin(Flow::udp(source, neighbour)));
    }
}

#[test]
fn without_hairpinning_the_own_external_address_is_out_of_reach() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let target = send(&mut nat, at("192.168.1.11:6000"), server(), now);
    assert_eq!(
        nat.outbound(Flow::udp(inside(), target), now),
        Verdict::Drop(DropReason::HairpinOff)
    );
}

#[test]
fn two_neighbours_that_punch_each_other_through_a_hairpin_meet() {
    let mut nat = boxed(NatSpec {
        hairpin: Hairpin::External,
        ..NatSpec::default()
    });
    let (now, neighbour) = (Instant::now(), at("192.168.1.11:6000"));
    let mine = send(&mut nat, inside(), server(), now);
    let theirs = send(&mut nat, neighbour, server(), now);
    assert_eq!(
        nat.outbound(Flow::udp(inside(), theirs), now),
        Verdict::Drop(DropReason::Filtered)
    );
    let answer = nat.outbound(Flow::udp(neighbour, mine), now);
    assert_eq!(answer, Verdict::Hairpin(Flow::udp(theirs, inside())));
    let again = nat.outbound(Flow::udp(inside(), theirs), now);
    assert_eq!(again, Verdict::Hairpin(Flow::udp(mine, neighbour)));
}
