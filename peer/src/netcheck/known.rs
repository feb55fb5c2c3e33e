//! What a node knows of its network from before, by itself or by `netcheck`: the same file, the same suspicion.

use std::net::SocketAddr;
use std::path::PathBuf;

use knothole_proto::fingerprint::Fingerprint;

use super::cache::{Cache, Place};
use super::servers::server_name;

/// What is known of the network that this machine is in, if the server sees it there at an address that it had when that was
/// learnt.
pub(crate) async fn recall(cache: PathBuf, host: &str, port: u16, seen: SocketAddr) -> Option<Fingerprint> {
    let place = Place::find(&server_name(host, port)).await;
    let looking = tokio::task::spawn_blocking(move || Cache::at(cache).look_up(&place));
    let (fingerprint, _) = looking.await.ok().flatten()?;
    is_same(&fingerprint, seen).then_some(fingerprint)
}

/// Keep what was learnt of the network that this machine is in. A file that cannot be written only costs time.
pub(crate) async fn remember(cache: PathBuf, host: &str, port: u16, fingerprint: &Fingerprint) {
    let place = Place::find(&server_name(host, port)).await;
    let fingerprint = fingerprint.clone();
    let keeping = tokio::task::spawn_blocking(move || Cache::at(cache).keep(&place, &fingerprint));
    if let Ok(Err(error)) = keeping.await {
        tracing::debug!(%error, "what was learnt of this network could not be kept");
    }
}

fn is_same(before: &Fingerprint, seen: SocketAddr) -> bool {
    let ip = seen.ip().to_canonical();
    let reflexive = [before.v4.reflexive, before.v6.reflexive];
    before.addresses.contains(&ip) || reflexive.into_iter().flatten().any(|at| at.ip() == ip)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knothole_proto::fingerprint::{Allocation, Fact, FamilyFacts, Hairpin, Obstacle, Reach};

    use super::*;

    fn fingerprint(reflexive: &str) -> Fingerprint {
        let unknown = FamilyFacts::unknown(Reach::NoLocalAddress, Obstacle::OneAddress);
        Fingerprint {
            v4: FamilyFacts {
                reach: Reach::Works,
                reflexive: Some(reflexive.parse().unwrap()),
                ..unknown
            },
            v6: unknown,
            through_nat64: false,
            addresses: Vec::new(),
            ports: Fact::Known(Allocation::Preserving),
            hairpin: Fact::Known(Hairpin::Absent),
            udp_blocked: Fact::Known(false),
            signs: Vec::new(),
            rtt: None,
            packets: 30,
            took: Duration::from_secs(1),
        }
    }

    #[tokio::test]
    async fn a_network_is_known_again_where_the_server_sees_the_same_address_and_only_for_that_server() {
        let home = tempfile::tempdir().unwrap();
        let cache = || home.path().join("networks.json");
        let learnt = fingerprint("5.5.5.5:4000");
        assert_eq!(
            recall(cache(), "h", 1, "5.5.5.5:9".parse().unwrap()).await,
            None,
            "nothing there yet"
        );
        remember(cache(), "h", 1, &learnt).await;
        assert_eq!(
            recall(cache(), "h", 1, "5.5.5.5:9".parse().unwrap()).await,
            Some(learnt)
        );
        assert_eq!(
            recall(cache(), "h", 1, "5.5.5.6:4000".parse().unwrap()).await,
            None
        );
        assert_eq!(recall(cache(), "h", 2, "5.5.5.5:9".parse().unwrap()).await, None);
    }

    #[tokio::test]
    async fn a_place_where_nothing_can_be_written_costs_nothing() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        remember(file.join("below"), "h", 1, &fingerprint("5.5.5.5:1")).await;
        assert_eq!(
            recall(file.join("below"), "h", 1, "5.5.5.5:1".parse().unwrap()).await,
            None
        );
    }
}
