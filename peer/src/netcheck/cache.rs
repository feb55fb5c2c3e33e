//! What was learnt of the networks that this machine was in: one JSON file, read with suspicion.
//!
//! A network is known again by the router that leads out of it, the prefix of the own address, and the server that was
//! asked. What is older than a day is not believed, nor what was learnt with other addresses.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knothole_proto::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::json::{from_json, to_json};
use super::run::since;
use crate::net::{default_gateway, own_addresses};

/// Version of the file's layout.
const SCHEMA: u32 = 1;

/// How long it is believed. Providers change addresses daily; a router that is replaced is seen by its hardware address.
const BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);

/// Networks that are kept; the oldest goes first. A person is rarely in more within a day.
const NETWORKS_MAX: usize = 16;

/// Largest file that is read, in bytes: 16 networks of 3 kB, and room.
const FILE_LEN_MAX: u64 = 256 * 1024;

/// Addresses of this machine.
pub(super) type Locals = Vec<IpAddr>;

/// Where this machine is, as far as it can see by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    key: String,
    pub(super) local: Locals,
}

impl Place {
    /// Ask the operating system.
    pub(super) async fn find(server: &str) -> Self {
        let asked = tokio::task::spawn_blocking(|| (default_gateway(), own_addresses())).await;
        let (gateway, local) = asked.unwrap_or_default();
        Self::of(gateway.as_deref(), local, server)
    }

    fn of(gateway: Option<&str>, local: Locals, server: &str) -> Self {
        let mut prefixes: Vec<String> = local.iter().map(|ip| prefix(*ip).to_string()).collect();
        prefixes.dedup();
        let key = format!(
            "{} via {} asking {server}",
            prefixes.join(" "),
            gateway.unwrap_or("nobody")
        );
        Self { key, local }
    }
}

/// The part of an address that machines of one network share.
fn prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) & !0xff).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
    }
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Cache(PathBuf);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    schema: u32,
    networks: Vec<Network>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Network {
    key: String,
    local: Locals,
    /// Seconds since 1970.
    at: u64,
    facts: Map<String, Value>,
}

impl Cache {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// What is known of this place, and for how long.
    pub(super) fn look_up(&self, place: &Place) -> Option<(Fingerprint, Duration)> {
        self.look_up_at(place, seconds())
    }

    fn look_up_at(&self, place: &Place, now: u64) -> Option<(Fingerprint, Duration)> {
        let stored = self.read()?;
        let here = stored.networks.iter().find(|network| network.key == place.key)?;
        let age = since(here.at, now).filter(|age| *age < BELIEVED)?;
        (here.local == place.local).then(|| Some((from_json(&here.facts)?, age)))?
    }

    /// Keep what was learnt of this place. That nothing answered, or that tests did not end, is not kept: it may be over in a
    /// moment.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn keep(&self, place: &Place, fingerprint: &Fingerprint) -> io::Result<()> {
        let mut stored = self.read().unwrap_or_default();
        stored.schema = SCHEMA;
        stored.networks.retain(|network| network.key != place.key);
        if fingerprint.udp_blocked.known() == Some(false) && !fingerprint.is_unfinished() {
            let (key, local) = (place.key.clone(), place.local.clone());
            stored.networks.push(Network {
                key,
                local,
                at: seconds(),
                facts: to_json(fingerprint),
            });
        }
        stored
            .networks
            .sort_by_key(|network| std::cmp::Reverse(network.at));
        stored.networks.truncate(NETWORKS_MAX);
        self.write(&stored)
    }

    fn read(&self) -> Option<Stored> {
        let mut text = String::new();
        let file = fs::File::open(&self.0).ok()?;
        file.take(FILE_LEN_MAX).read_to_string(&mut text).ok()?;
        let stored: Stored = serde_json::from_str(&text).ok()?;
        (stored.schema == SCHEMA).then_some(stored)
    }

    fn write(&self, stored: &Stored) -> io::Result<()> {
        let directory = self.0.parent().unwrap_or(std::path::Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        // Made with mode 0600, and in one step.
        let mut file = tempfile::Builder::new()
            .prefix(".networks")
            .tempfile_in(directory)?;
        file.write_all(&serde_json::to_vec_pretty(stored)?)?;
        file.persist(&self.0).map_err(|error| error.error)?;
        Ok(())
    }
}

fn seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use knothole_proto::fingerprint::{Allocation, Fact, FamilyFacts, Hairpin, Obstacle, Reach};

    fn fingerprint(blocked: bool) -> Fingerprint {
        let family = FamilyFacts::unknown(Reach::NoAnswer, Obstacle::NoAnswer);
        Fingerprint {
            v4: family,
            v6: family,
            through_nat64: false,
            addresses: Vec::new(),
            ports: Fact::Known(Allocation::Random),
            hairpin: Fact::Known(Hairpin::Absent),
            udp_blocked: Fact::Known(blocked),
            signs: Vec::new(),
            rtt: None,
            packets: 1,
            took: Duration::from_millis(5),
        }
    }

    fn place(gateway: &str, local: &str) -> Place {
        Place::of(Some(gateway), vec![local.parse().unwrap()], "h:1")
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("home/networks.json"));
        (dir, cache)
    }

    #[test]
    fn a_network_is_known_again_for_a_day_by_router_prefix_and_addresses() {
        let (_dir, cache) = cache();
        let home = place("192.168.1.1 aa", "192.168.1.7");
        assert_eq!(cache.look_up(&home), None);
        cache.keep(&home, &fingerprint(false)).unwrap();
        assert_eq!(cache.look_up(&home).unwrap().0, fingerprint(false));
        for other in [
            place("192.168.1.1 bb", "192.168.1.7"),
            place("192.168.1.1 aa", "192.168.2.7"),
            place("192.168.1.1 aa", "192.168.1.8"),
        ] {
            assert_eq!(cache.look_up(&other), None);
        }
        let day = BELIEVED.as_secs();
        assert!(cache.look_up_at(&home, seconds() + day - 60).is_some());
        assert_eq!(cache.look_up_at(&home, seconds() + day + 1), None);
        assert_eq!(
            cache.look_up_at(&home, seconds() - 60),
            None,
            "learnt in the future"
        );
    }

    #[test]
    fn what_was_blocked_is_forgotten_at_once() {
        let (_dir, cache) = cache();
        let home = place("r", "192.168.1.7");
        cache.keep(&home, &fingerprint(false)).unwrap();
        cache.keep(&home, &fingerprint(true)).unwrap();
        assert_eq!(cache.look_up(&home), None);
    }

    #[test]
    fn the_file_stays_small_and_rubbish_in_it_is_nothing() {
        let (_dir, cache) = cache();
        for number in 0..40 {
            cache
                .keep(&place(&number.to_string(), "192.168.1.7"), &fingerprint(false))
                .unwrap();
        }
        assert_eq!(cache.read().unwrap().networks.len(), NETWORKS_MAX);
        for rubbish in ["", "{}", "[1]", "{\"schema\":2,\"networks\":[]}", "\u{0}"] {
            fs::write(&cache.0, rubbish).unwrap();
            assert_eq!(cache.look_up(&place("39", "192.168.1.7")), None, "{rubbish}");
        }
        cache
            .keep(&place("1", "192.168.1.7"), &fingerprint(false))
            .unwrap();
        assert!(cache.look_up(&place("1", "192.168.1.7")).is_some());
    }
}
