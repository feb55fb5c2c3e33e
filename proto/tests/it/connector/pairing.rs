//! Pairing by a code, from the command to the secret.

use super::*;

fn pair_event(town: &Town, index: usize) -> Option<PairEvent> {
    events(town, index)
        .into_iter()
        .rev()
        .find_map(|event| match event {
            Event::Pair(event) => Some(event),
            _ => None,
        })
}

/// Node 0 opens a nameplate; gives its code.
fn opened(town: &mut Town) -> Code {
    town.clear();
    town.command(0, Command::PairOpen);
    town.run(town.now + SECOND);
    match pair_event(town, 0) {
        Some(PairEvent::Code { code, ttl }) => {
            assert_eq!(ttl, 600 * SECOND);
            code
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_nodes_pair_by_a_code() {
    let mut town = Town::new(2);
    let code = opened(&mut town);
    town.command(1, Command::PairJoin { code });
    town.run(town.now + SECOND);
    let secrets: Vec<_> = [0, 1]
        .map(|index| match pair_event(&town, index) {
            Some(PairEvent::Paired { peer, name, secret }) => {
                assert_eq!(peer, id(1 - index));
                assert_eq!(name, Some(format!("node-{}", 1 - index).parse().unwrap()));
                secret
            }
            other => panic!("{other:?}"),
        })
        .into();
    assert!(secrets[0] == secrets[1]);
    town.clear();
    town.run(town.now + 700 * SECOND);
    assert_eq!(
        (pair_event(&town, 0), pair_event(&town, 1)),
        (None, None),
        "and it is over"
    );
}

#[test]
fn a_wrong_code_uses_the_nameplate_up() {
    let mut town = Town::new(3);
    let code = opened(&mut town);
    let wrong: Code = format!("{}-wrong-words", code.nameplate().0).parse().unwrap();
    town.command(1, Command::PairJoin { code: wrong });
    town.run(town.now + SECOND);
    for index in [0, 1] {
        assert_eq!(
            pair_event(&town, index),
            Some(PairEvent::Failed(PairFailure::WrongCode))
        );
    }
    town.command(2, Command::PairJoin { code });
    town.run(town.now + SECOND);
    assert_eq!(
        pair_event(&town, 2),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Unknown)))
    );
}

#[test]
fn pairing_that_nobody_joins_expires_and_a_cancelled_one_is_silent() {
    let mut town = Town::new(2);
    opened(&mut town);
    town.run(town.now + 601 * SECOND);
    assert_eq!(
        pair_event(&town, 0),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Expired)))
    );
    let code = opened(&mut town);
    town.clear();
    town.command(0, Command::PairCancel);
    town.command(1, Command::PairJoin { code });
    town.run(town.now + SECOND);
    assert_eq!(pair_event(&town, 0), None);
    assert_eq!(
        pair_event(&town, 1),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Unknown)))
    );
}

#[test]
fn pairing_fails_with_the_reason_when_it_cannot_go_on() {
    let mut town = Town::new(2);
    let code = opened(&mut town);
    town.command(0, Command::PairJoin { code: code.clone() });
    let own = PairFailure::Nameplate(code.nameplate());
    assert_eq!(pair_event(&town, 0), Some(PairEvent::Failed(own)));
    let unknown: Code = "999-acorn-acorn".parse().unwrap();
    assert_eq!(unknown.nameplate(), Nameplate(999));
    town.command(1, Command::PairJoin { code: unknown });
    town.run(town.now + SECOND);
    assert_eq!(
        pair_event(&town, 1),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Unknown)))
    );
    opened(&mut town);
    town.control_down(0);
    assert_eq!(
        pair_event(&town, 0),
        Some(PairEvent::Failed(PairFailure::ServerLost))
    );
    town.command(0, Command::PairOpen);
    assert_eq!(
        pair_event(&town, 0),
        Some(PairEvent::Failed(PairFailure::ServerLost))
    );
}
