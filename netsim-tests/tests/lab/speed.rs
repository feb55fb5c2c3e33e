//! What the lab can carry, so that a measurement inside knows its ceiling. Prints; the bounds only catch a lab that is
//! broken. `knothole-netsim bench ceiling` measures longer.

use std::time::Duration;

use knothole_netsim::ceiling::{Path, measure};

use crate::support::*;

/// Long enough to see that nothing is broken; `knothole-netsim bench ceiling` takes more time.
const TIME: Duration = Duration::from_millis(200);

#[test]
fn the_ceiling_of_the_lab_is_known() {
    if !possible() {
        return;
    }
    let _quiet = quiet();
    for path in Path::ALL {
        if path == Path::KernelNats && !kernel_possible() {
            continue;
        }
        let ceiling = measure(path, TIME).unwrap();
        let (gso, single, tcp) = (
            ceiling.udp_offload.gbit,
            ceiling.udp_single.gbit,
            ceiling.tcp_gbit,
        );
        println!(
            "{:<24} udp gso {gso:.2} Gbit/s ({:.0} % arrived), udp single {single:.2} ({:.0} packets/s, {:.0} %), tcp {tcp:.2}",
            path.label(),
            ceiling.udp_offload.arrived * 100.0,
            ceiling.udp_single.packets,
            ceiling.udp_single.arrived * 100.0,
        );
        assert!(gso > 0.05 && single > 0.02 && tcp > 0.02, "{path:?}: {ceiling:?}");
        let shares = [ceiling.udp_offload.arrived, ceiling.udp_single.arrived];
        assert!(
            shares.iter().all(|share| (0.0..=1.0).contains(share)),
            "{shares:?}"
        );
        assert!(
            !ceiling.offload || gso > 0.5,
            "super-packets do not seem to pass whole"
        );
    }
}
