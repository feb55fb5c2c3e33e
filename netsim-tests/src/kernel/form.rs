//! [`KernelForm`]: a description that the kernel can play, and [`NoKernelForm`]: why it cannot play another. Decides by
//! what is written in `reference/netsim.md` and was measured; runs nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::nat::{
    FilterScope, Filtering, Hairpin, InputPolicy, Ipv6, Mapping, NatSpec, PortAllocation, UdpPolicy,
};

use super::ports::blocks;
use super::{rules, service, six, table::Script};

/// Why the kernel cannot play a NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKernelForm {
    /// [`Ipv6::Nat64`].
    #[error("Linux has no stateful NAT64 of its own")]
    Nat64,
    /// [`NatSpec::inbound_refresh`] is off.
    #[error("connection tracking refreshes a flow by packets of either direction")]
    InboundRefresh,
    /// [`NatSpec::absolute_timeout`].
    #[error("connection tracking knows no absolute end of a flow")]
    AbsoluteTimeout,
    /// A timeout that is no whole number of seconds, or none at all.
    #[error("connection tracking counts timeouts in whole seconds, {0:?} is none")]
    Timeout(Duration),
    /// [`InputPolicy::AcceptConntrackClash`] together with mappings that live in maps: a flow that clashes is bound to a
    /// port that it cannot have, and would be dropped instead of moved.
    #[error("a clash moves a flow only where connection tracking alone chooses its port")]
    ClashWithMaps,
    /// Blocks of ports of which not one fits between 1024 and 65535.
    #[error("no block of {0} ports fits")]
    Block(u16),
}

/// A NAT that the kernel can play.
#[derive(Clone, Copy, Debug)]
pub struct KernelForm<'a> {
    spec: &'a NatSpec,
}

/// Where a NAT stands: what its rules must know about the world around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its addresses outside, at least one.
    pub externals: Vec<Ipv4Addr>,
    /// The addresses that it leads to, of hosts and of further NATs.
    pub inside: Vec<IpAddr>,
    /// Where counted ports begin, and which blocks are handed out.
    pub seed: u64,
}

impl NatSpec {
    /// The rules of a Linux kernel that do what this describes.
    ///
    /// # Errors
    ///
    /// What the kernel cannot do.
    pub fn kernel_form(&self) -> Result<KernelForm<'_>, NoKernelForm> {
        if self.ipv6 == Ipv6::Nat64 {
            return Err(NoKernelForm::Nat64);
        }
        if !self.inbound_refresh {
            return Err(NoKernelForm::InboundRefresh);
        }
        if self.absolute_timeout.is_some() {
            return Err(NoKernelForm::AbsoluteTimeout);
        }
        for timeout in [self.unreplied_timeout, self.stream_timeout] {
            if timeout.is_zero() || timeout.subsec_nanos() != 0 {
                return Err(NoKernelForm::Timeout(timeout));
            }
        }
        if let PortAllocation::Block { size } = self.ports
            && blocks(size) == 0
        {
            return Err(NoKernelForm::Block(size));
        }
        if self.input == InputPolicy::AcceptConntrackClash && !by_conntrack_alone(self) {
            return Err(NoKernelForm::ClashWithMaps);
        }
        Ok(KernelForm { spec: self })
    }
}

/// Does plain connection tracking give these mappings and this filter, without any map?
fn by_conntrack_alone(spec: &NatSpec) -> bool {
    let mapped = match spec.mapping {
        Mapping::EndpointIndependent => spec.ports == PortAllocation::Preserving,
        Mapping::AddressDependent => false,
        Mapping::AddressAndPortDependent => true,
    };
    let scope = spec.filter_scope == FilterScope::Mapping || spec.mapping == Mapping::EndpointIndependent;
    mapped && scope && spec.filtering == Filtering::AddressAndPortDependent && spec.hairpin == Hairpin::Off
}

impl KernelForm<'_> {
    /// A script of `nft` that replaces all rules of a namespace by those of this NAT, with empty tables. The interface
    /// inside is called `lan0`, the one outside `wan0`.
    #[must_use]
    pub fn ruleset(&self, place: &Place) -> String {
        let mut script = Script::replacing_everything();
        script.add(rules::translation(self.spec, place));
        if let Some(firewall) = six::firewall(self.spec) {
            script.add(firewall);
        }
        script.add(service::policy(&self.spec.udp, &self.spec.tcp));
        script.into_text()
    }

    /// A script of `nft` that replaces what is said of UDP as such, and leaves everything else alone: mappings stay.
    #[must_use]
    pub fn udp_policy(&self, udp: &UdpPolicy) -> String {
        let mut script = Script::default();
        script.replace(service::policy(udp, &self.spec.tcp));
        script.into_text()
    }
}
