//! [`probe`]: can this machine run a lab, and how well? Tries the real things in a namespace that it throws away.

use super::error::LabError;
use super::interface::{InterfaceSpec, Reach, configure};
use super::namespace::Namespace;
use super::nft::try_rules;
use super::sys;

/// What the machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Super-packets of up to 64 KiB pass whole (TUN with a virtio-net header, TSO and USO). Without, the kernel cuts
    /// them up and the lab carries about a tenth of the data.
    pub offload: bool,
    /// The kernel can play NATs; or what is missing for that.
    pub kernel_nat: Result<(), String>,
}

/// Makes a namespace with a device, an address, a route and the rules of a NAT.
///
/// # Errors
///
/// The first thing that cannot be done and that every lab needs.
pub fn probe() -> Result<Probe, LabError> {
    let namespace = Namespace::create("probe")?;
    let tun = namespace.run(|| {
        let tun = sys::open_tun("eth0", true).map_err(LabError::Tun)?;
        let addresses = [([192, 168, 1, 2].into(), 24)];
        configure(&InterfaceSpec {
            name: "eth0",
            addresses: &addresses,
            reach: Reach::Everything,
            mtu: 1500,
            queue: 500,
        })?;
        Ok::<_, LabError>(tun)
    })??;
    Ok(Probe {
        offload: tun.offload,
        kernel_nat: try_rules(&namespace).map_err(|error| error.to_string()),
    })
}
