//! Where each link's datagrams go and come from: written by the driver, read by the socket for every batch.
//!
//! Readers take a snapshot (one reference count) and hold no lock while they send. Writers copy the small tables; a
//! node has a handful of links. QUIC knows a link only by its virtual address, which never changes; that is what lets
//! a connection move between relay and direct paths in either role without QUIC noticing (RFC 9000 section 9 lets
//! only the client migrate).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use knothole_proto::connector::LinkId;
use knothole_proto::id::ChannelId;
use knothole_proto::path::SocketId;
use knothole_proto::punch::TrafficReport;

/// First 48 bits of every virtual address: a locally assigned prefix (RFC 4193) that spells "knot" in ASCII behind
/// its first byte. No datagram is ever sent to it.
const PREFIX: [u16; 3] = [0xfd6b, 0x6e6f, 0x7400];

/// Port of every virtual address; QUIC wants one that is not 0.
const VIRTUAL_PORT: u16 = 1;

/// Most source addresses that one link may have, or wait for, at a time. A peer has a few real ones; further ones are not taken.
const SOURCES_PER_LINK_MAX: usize = 16;

/// The address by which QUIC knows a link.
pub(crate) fn virtual_addr(link: LinkId) -> SocketAddr {
    let [a, b, c] = PREFIX;
    let mut octets = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).octets();
    octets[8..].copy_from_slice(&link.0.to_be_bytes());
    SocketAddr::V6(SocketAddrV6::new(octets.into(), VIRTUAL_PORT, 0, 0))
}

/// The link behind a virtual address; `None` for a real address.
pub(crate) fn link_of(addr: SocketAddr) -> Option<LinkId> {
    let IpAddr::V6(ip) = addr.ip() else { return None };
    let segments = ip.segments();
    if segments[..3] != PREFIX || segments[3] != 0 {
        return None;
    }
    let mut link = [0; 8];
    link.copy_from_slice(&ip.octets()[8..]);
    Some(LinkId(u64::from_be_bytes(link)))
}

/// Where a link's datagrams are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Nowhere; they are dropped.
    None,
    /// Straight to the peer.
    Direct { socket: SocketId, remote: SocketAddr },
    /// In relay frames to the server.
    Relay(ChannelId),
}

/// What the hot path shares with the driver about one link.
#[derive(Debug)]
pub(crate) struct LinkPath {
    link: LinkId,
    virtual_addr: SocketAddr,
    /// Counts changes of the route; congestion controllers start afresh when it moved.
    epoch: Arc<AtomicU64>,
    sent: AtomicBool,
    received: AtomicBool,
    relayed: AtomicBool,
}

impl LinkPath {
    pub(crate) fn new(link: LinkId) -> Self {
        Self {
            link,
            virtual_addr: virtual_addr(link),
            epoch: Arc::default(),
            sent: AtomicBool::new(false),
            received: AtomicBool::new(false),
            relayed: AtomicBool::new(false),
        }
    }

    pub(crate) fn virtual_addr(&self) -> SocketAddr {
        self.virtual_addr
    }

    pub(crate) fn epoch(&self) -> &Arc<AtomicU64> {
        &self.epoch
    }

    /// A datagram went out on the direct path.
    pub(crate) fn note_sent(&self) {
        note(&self.sent);
    }

    /// A datagram came in on the direct path.
    pub(crate) fn note_received(&self) {
        note(&self.received);
    }

    /// A datagram came in through the relay.
    pub(crate) fn note_relayed(&self) {
        note(&self.relayed);
    }

    /// What there was since the last question.
    pub(crate) fn take_traffic(&self) -> TrafficReport {
        let take = |flag: &AtomicBool| flag.swap(false, Ordering::Relaxed);
        TrafficReport {
            sent: take(&self.sent),
            received: take(&self.received),
            relayed: take(&self.relayed),
        }
    }
}

/// Sets a flag that is mostly set already: a load before the store keeps the cache line shared while busy.
fn note(flag: &AtomicBool) {
    if !flag.load(Ordering::Relaxed) {
        flag.store(true, Ordering::Relaxed);
    }
}

/// The links whose peers were heard from one address. A probe alone does not prove that its sender is there: a peer can
/// forge the address of another one. So the address belongs to whoever was first, until another one is proven there or
/// the first one has left: a peer that starts anew is heard from where its old link still seems to live.
#[derive(Clone, Debug)]
struct Claims {
    holder: Arc<LinkPath>,
    /// In the order in which they get it.
    waiting: Vec<Arc<LinkPath>>,
}

impl Claims {
    const fn of(holder: Arc<LinkPath>) -> Self {
        Self {
            holder,
            waiting: Vec::new(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<LinkPath>> {
        std::iter::once(&self.holder).chain(&self.waiting)
    }

    fn has(&self, link: LinkId) -> bool {
        self.all().any(|path| path.link == link)
    }

    /// This link is proven there. Whoever had it comes next, should it leave.
    fn give_to(&mut self, link: LinkId) {
        if let Some(at) = self.waiting.iter().position(|path| path.link == link) {
            let proven = self.waiting.remove(at);
            let before = std::mem::replace(&mut self.holder, proven);
            self.waiting.insert(0, before);
        }
    }

    /// Without this link; false if nobody is left.
    fn forget(&mut self, link: LinkId) -> bool {
        self.waiting.retain(|path| path.link != link);
        if self.holder.link != link {
            return true;
        }
        if self.waiting.is_empty() {
            return false;
        }
        self.holder = self.waiting.remove(0);
        true
    }
}

/// The tables at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    links: HashMap<LinkId, (Arc<LinkPath>, Route)>,
    sources: HashMap<(SocketId, SocketAddr), Claims>,
    channels: HashMap<ChannelId, Arc<LinkPath>>,
    servers: Vec<SocketAddr>,
    relay: Option<SocketAddr>,
}

impl Tables {
    pub(crate) fn route(&self, link: LinkId) -> Option<(&LinkPath, Route)> {
        self.links.get(&link).map(|(path, route)| (path.as_ref(), *route))
    }

    pub(crate) fn source(&self, socket: SocketId, from: SocketAddr) -> Option<&LinkPath> {
        self.sources
            .get(&(socket, from))
            .map(|claims| claims.holder.as_ref())
    }

    /// Do the link's datagrams go straight there from that socket?
    pub(crate) fn is_used(&self, path: &LinkPath, socket: SocketId, remote: SocketAddr) -> bool {
        let used = Route::Direct { socket, remote };
        self.links
            .get(&path.link)
            .is_some_and(|(_, route)| *route == used)
    }

    pub(crate) fn channel(&self, channel: ChannelId) -> Option<&LinkPath> {
        self.channels.get(&channel).map(AsRef::as_ref)
    }

    /// May QUIC be exchanged with this address outside of any link?
    pub(crate) fn is_server(&self, addr: SocketAddr) -> bool {
        self.servers.contains(&addr)
    }

    /// Where the server is, or was when it was last reached for.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        self.relay.or_else(|| self.servers.first().copied())
    }

    /// An address of the server in this family.
    pub(crate) fn server_of(&self, v6: bool) -> Option<SocketAddr> {
        let all = self.relay.iter().chain(&self.servers);
        all.copied().find(|addr| addr.is_ipv6() == v6)
    }

    /// The server's end of the relay: the address that the control connection runs to.
    pub(crate) fn relay(&self) -> Option<SocketAddr> {
        self.relay
    }
}

/// The shared table.
#[derive(Debug, Default)]
pub(crate) struct PathTable {
    tables: RwLock<Arc<Tables>>,
}

impl PathTable {
    /// The tables as they are now.
    pub(crate) fn load(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Addresses of the server that QUIC may use; the first kind of traffic is the control connection itself.
    pub(crate) fn set_servers(&self, servers: Vec<SocketAddr>) {
        self.change(|tables| tables.servers = servers);
    }

    /// Where relay frames go and come from; `None` while there is no control connection.
    pub(crate) fn set_relay(&self, relay: Option<SocketAddr>) {
        self.change(|tables| tables.relay = relay);
    }

    /// A link begins, with no route.
    pub(crate) fn add_link(&self, path: Arc<LinkPath>) {
        self.change(|tables| {
            tables.links.entry(path.link).or_insert((path, Route::None));
        });
    }

    /// A link and everything that belongs to it is gone.
    pub(crate) fn remove_link(&self, link: LinkId) {
        self.change(|tables| {
            tables.links.remove(&link);
            tables.sources.retain(|_, claims| claims.forget(link));
            tables.channels.retain(|_, path| path.link != link);
        });
    }

    /// From now on the link's datagrams go here, and what comes from there is its: a direct route is one on which the peer
    /// has answered. A move from one usable route to another counts as a new epoch. Returns where they went before.
    pub(crate) fn set_route(&self, link: LinkId, route: Route) -> Route {
        self.change(|tables| {
            let Some((path, now)) = tables.links.get_mut(&link) else {
                return Route::None;
            };
            let before = std::mem::replace(now, route);
            if before != route && before != Route::None {
                path.epoch.fetch_add(1, Ordering::Release);
            }
            // Said again, it is no new proof.
            if before != route
                && let Route::Direct { socket, remote } = route
                && let Some(claims) = tables.sources.get_mut(&(socket, remote))
            {
                claims.give_to(link);
            }
            before
        })
    }

    /// The relay channel of a link is now this one, or none.
    pub(crate) fn set_channel(&self, link: LinkId, channel: Option<ChannelId>) {
        self.change(|tables| {
            tables.channels.retain(|_, path| path.link != link);
            if let (Some(channel), Some((path, _))) = (channel, tables.links.get(&link)) {
                tables.channels.insert(channel, Arc::clone(path));
            }
        });
    }

    /// The link's peer was heard from this address: QUIC from there belongs to it if the address is free, or as soon as the
    /// link is proven there or nobody else has it any more. False if that link is not there or has enough addresses.
    pub(crate) fn add_source(&self, link: LinkId, socket: SocketId, remote: SocketAddr) -> bool {
        self.change(|tables| {
            let Some((path, route)) = tables.links.get(&link) else {
                return false;
            };
            let claims = tables.sources.get(&(socket, remote));
            if claims.is_some_and(|claims| claims.has(link)) {
                return true;
            }
            let of_link = tables.sources.values().filter(|claims| claims.has(link)).count();
            if of_link >= SOURCES_PER_LINK_MAX {
                return false;
            }
            let is_proven = *route == Route::Direct { socket, remote };
            let path = Arc::clone(path);
            let claims = tables.sources.entry((socket, remote));
            let claims = claims.or_insert_with(|| Claims::of(Arc::clone(&path)));
            if !claims.has(link) {
                claims.waiting.push(path);
            }
            if is_proven {
                claims.give_to(link);
            }
            true
        })
    }

    /// QUIC from this address belongs to this link no more.
    pub(crate) fn remove_source(&self, link: LinkId, socket: SocketId, remote: SocketAddr) {
        self.change(|tables| {
            if let Entry::Occupied(mut claims) = tables.sources.entry((socket, remote))
                && !claims.get_mut().forget(link)
            {
                claims.remove();
            }
        });
    }

    fn change<R>(&self, edit: impl FnOnce(&mut Tables) -> R) -> R {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut tables))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkId = LinkId(0x0102_0304_0506_0708);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn table() -> (PathTable, Arc<LinkPath>) {
        let (table, path) = (PathTable::default(), Arc::new(LinkPath::new(LINK)));
        table.add_link(Arc::clone(&path));
        (table, path)
    }

    #[test]
    fn a_virtual_address_names_its_link_and_no_real_address_does() {
        assert_eq!(virtual_addr(LINK), addr("[fd6b:6e6f:7400:0:102:304:506:708]:1"));
        assert_eq!(link_of(virtual_addr(LINK)), Some(LINK));
        for real in [
            "[fd6b:6e6f:7401::1]:1",
            "[fd6b:6e6f:7400:1::1]:1",
            "[::ffff:1.2.3.4]:1",
            "1.2.3.4:1",
        ] {
            assert_eq!(link_of(addr(real)), None, "{real}");
        }
    }

    #[test]
    fn the_epoch_counts_moves_between_usable_routes() {
        let (table, path) = table();
        let epoch = || path.epoch().load(Ordering::Acquire);
        let direct = Route::Direct {
            socket: SocketId::V4,
            remote: addr("5.5.5.5:5"),
        };
        table.set_route(LINK, Route::Relay(ChannelId(1)));
        assert_eq!(epoch(), 0, "the first route is no move");
        table.set_route(LINK, Route::Relay(ChannelId(1)));
        assert_eq!(epoch(), 0);
        table.set_route(LINK, direct);
        assert_eq!(epoch(), 1);
        table.set_route(LINK, Route::None);
        assert_eq!(epoch(), 2, "what comes after a pause is another path");
    }

    #[test]
    fn what_belongs_to_a_link_goes_with_it() {
        let (table, _) = table();
        table.add_source(LINK, SocketId::V4, addr("5.5.5.5:5"));
        table.set_channel(LINK, Some(ChannelId(7)));
        table.set_channel(LINK, Some(ChannelId(8)));
        let before = table.load();
        assert!(before.source(SocketId::V4, addr("5.5.5.5:5")).is_some());
        assert!(before.source(SocketId::V6, addr("5.5.5.5:5")).is_none());
        assert!(before.channel(ChannelId(7)).is_none() && before.channel(ChannelId(8)).is_some());
        table.remove_link(LINK);
        let after = table.load();
        assert!(after.route(LINK).is_none() && after.channel(ChannelId(8)).is_none());
        assert!(after.source(SocketId::V4, addr("5.5.5.5:5")).is_none());
    }

    #[test]
    fn sources_of_one_link_are_bounded_and_another_link_cannot_take_them_away() {
        let (table, _) = table();
        for port in 1..100 {
            table.add_source(LINK, SocketId::V4, SocketAddr::from(([5, 5, 5, 5], port)));
        }
        assert_eq!(table.load().sources.len(), SOURCES_PER_LINK_MAX);
        table.remove_source(LinkId(9), SocketId::V4, addr("5.5.5.5:1"));
        assert!(table.load().source(SocketId::V4, addr("5.5.5.5:1")).is_some());
    }

    const RIVAL: LinkId = LinkId(9);

    /// Two links that were both heard from one address, the first of them first; and whose it is.
    fn rivals() -> (PathTable, impl Fn(&PathTable) -> Option<LinkId>) {
        let (table, _) = table();
        table.add_link(Arc::new(LinkPath::new(RIVAL)));
        assert!(table.add_source(LINK, SocketId::V4, addr("5.5.5.5:5")));
        assert!(table.add_source(RIVAL, SocketId::V4, addr("5.5.5.5:5")));
        let whose = |table: &PathTable| {
            let tables = table.load();
            tables
                .source(SocketId::V4, addr("5.5.5.5:5"))
                .map(|path| path.link)
        };
        (table, whose)
    }

    #[test]
    fn an_address_stays_with_its_link_until_another_one_is_proven_there() {
        let (table, whose) = rivals();
        assert_eq!(
            whose(&table),
            Some(LINK),
            "a probe with its address takes nothing"
        );
        let elsewhere = Route::Direct {
            socket: SocketId::V4,
            remote: addr("5.5.5.5:6"),
        };
        table.set_route(RIVAL, elsewhere);
        table.set_route(RIVAL, Route::Relay(ChannelId(1)));
        assert_eq!(whose(&table), Some(LINK));
        let here = Route::Direct {
            socket: SocketId::V4,
            remote: addr("5.5.5.5:5"),
        };
        table.set_route(RIVAL, here);
        assert_eq!(
            whose(&table),
            Some(RIVAL),
            "a peer that started anew answered there"
        );
        table.remove_source(LINK, SocketId::V4, addr("5.5.5.5:5"));
        table.remove_link(LINK);
        assert_eq!(whose(&table), Some(RIVAL), "and its old link takes nothing along");
    }

    #[test]
    fn a_route_that_is_said_again_is_no_new_proof() {
        let (table, whose) = rivals();
        let here = Route::Direct {
            socket: SocketId::V4,
            remote: addr("5.5.5.5:5"),
        };
        for link in [LINK, RIVAL] {
            table.set_route(link, here);
            assert_eq!(whose(&table), Some(link));
        }
        table.set_route(LINK, here);
        assert!(table.add_source(LINK, SocketId::V4, addr("5.5.5.5:5")));
        assert_eq!(whose(&table), Some(RIVAL));
    }

    #[test]
    fn whoever_waits_for_an_address_has_it_when_its_link_is_gone_or_has_left_it() {
        let (table, whose) = rivals();
        table.remove_link(LINK);
        assert_eq!(whose(&table), Some(RIVAL));
        table.remove_source(RIVAL, SocketId::V4, addr("5.5.5.5:5"));
        assert_eq!((whose(&table), table.load().sources.len()), (None, 0));
        let (table, whose) = rivals();
        table.remove_source(LINK, SocketId::V4, addr("5.5.5.5:5"));
        assert_eq!(whose(&table), Some(RIVAL));
    }

    #[test]
    fn waiting_for_addresses_is_bounded_and_said_twice_counts_once() {
        let (table, _) = rivals();
        for port in 5..100 {
            table.add_source(LINK, SocketId::V4, SocketAddr::from(([5, 5, 5, 5], port)));
            table.add_source(RIVAL, SocketId::V4, SocketAddr::from(([5, 5, 5, 5], port)));
            table.add_source(RIVAL, SocketId::V4, SocketAddr::from(([5, 5, 5, 5], port)));
        }
        let tables = table.load();
        let claims = tables.sources.values().map(|claims| claims.all().count());
        assert_eq!(claims.sum::<usize>(), 2 * SOURCES_PER_LINK_MAX);
    }
}
