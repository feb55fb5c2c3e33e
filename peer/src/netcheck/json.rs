//! A fingerprint as JSON and back: what `netcheck --json` prints is what the cache keeps.
//!
//! A fact that is not known is `null`, and `not_testable` names the reason under the same name. Whoever reads an object
//! back that something else has written gets `None`, never a half-filled fingerprint.

use std::collections::BTreeMap;
use std::time::Duration;

use knothole_proto::fingerprint::{
    Allocation, Fact, FamilyFacts, Filtering, Fingerprint, Hairpin, Mapping, Obstacle, Reach, Sign,
};
use serde_json::{Map, Value, json};

/// The facts as an object.
pub fn to_json(fingerprint: &Fingerprint) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("class", json!(fingerprint.class().word()));
    put("v4", family_to_json(&fingerprint.v4));
    put("v6", family_to_json(&fingerprint.v6));
    put("through_nat64", json!(fingerprint.through_nat64));
    put("addresses", json!(fingerprint.addresses));
    put("signs", fingerprint.signs.iter().map(sign_to_json).collect());
    put("rtt_ms", json!(fingerprint.rtt.map(millis)));
    put("packets", json!(fingerprint.packets));
    put("took_ms", json!(millis(fingerprint.took)));
    put("public_address", json!(fingerprint.public_address().known()));
    put("carrier_nat", json!(fingerprint.carrier_nat().known()));
    let mut facts = Facts::default();
    facts.put("ports", fingerprint.ports, |ports| ports_to_json(&ports));
    facts.put("hairpin", fingerprint.hairpin, |hairpin| json!(hairpin.word()));
    facts.put("udp_blocked", fingerprint.udp_blocked, |blocked| json!(blocked));
    facts.finish(fields)
}

/// The facts in an object that [`to_json`] made; other fields are passed over.
pub fn from_json(fields: &Map<String, Value>) -> Option<Fingerprint> {
    let facts = Reader::of(fields)?;
    Some(Fingerprint {
        v4: family_from_json(fields.get("v4")?)?,
        v6: family_from_json(fields.get("v6")?)?,
        through_nat64: fields.get("through_nat64")?.as_bool()?,
        addresses: parse_all(fields.get("addresses")?, |value| value.as_str()?.parse().ok())?,
        ports: facts.get("ports", ports_from_json)?,
        hairpin: facts.get("hairpin", |value| Hairpin::from_word(value.as_str()?))?,
        udp_blocked: facts.get("udp_blocked", Value::as_bool)?,
        signs: parse_all(fields.get("signs")?, sign_from_json)?,
        rtt: match fields.get("rtt_ms")? {
            Value::Null => None,
            value => Some(duration(value)?),
        },
        packets: number(fields.get("packets")?)?,
        took: duration(fields.get("took_ms")?)?,
    })
}

fn family_to_json(family: &FamilyFacts) -> Value {
    let mut fields = Map::new();
    fields.insert("reach".to_owned(), json!(family.reach.word()));
    fields.insert("local".to_owned(), json!(family.local));
    fields.insert("reflexive".to_owned(), json!(family.reflexive));
    let mut facts = Facts::default();
    facts.put("translated", family.translated, |yes| json!(yes));
    facts.put("mapping", family.mapping, |mapping| json!(mapping.word()));
    facts.put("port_dependent", family.port_dependent, |yes| json!(yes));
    facts.put("filtering", family.filtering, |filtering| json!(filtering.word()));
    facts.put("other_port_passes", family.other_port_passes, |yes| json!(yes));
    facts.put("opener_ttl", family.opener_ttl, |ttl| json!(ttl));
    Value::Object(facts.finish(fields))
}

fn family_from_json(value: &Value) -> Option<FamilyFacts> {
    let fields = value.as_object()?;
    let facts = Reader::of(fields)?;
    let endpoint = |name: &str| match fields.get(name)? {
        Value::Null => Some(None),
        value => Some(Some(value.as_str()?.parse().ok()?)),
    };
    Some(FamilyFacts {
        reach: Reach::from_word(fields.get("reach")?.as_str()?)?,
        local: endpoint("local")?,
        reflexive: endpoint("reflexive")?,
        translated: facts.get("translated", Value::as_bool)?,
        mapping: facts.get("mapping", |value| Mapping::from_word(value.as_str()?))?,
        port_dependent: facts.get("port_dependent", Value::as_bool)?,
        filtering: facts.get("filtering", |value| Filtering::from_word(value.as_str()?))?,
        other_port_passes: facts.get("other_port_passes", Value::as_bool)?,
        opener_ttl: facts.get("opener_ttl", number)?,
    })
}

fn ports_to_json(ports: &Allocation) -> Value {
    let how = ports.word();
    match ports {
        Allocation::Preserving | Allocation::Random => json!({ "how": how }),
        Allocation::PreserveFirst { step } => json!({ "how": how, "step": step }),
        Allocation::Counter { step, rate } => json!({ "how": how, "step": step, "foreign_per_s": rate }),
        Allocation::Block { low, high, seen } => {
            json!({ "how": how, "low": low, "high": high, "seen": [seen.0, seen.1] })
        }
        Allocation::HalfRange { from } => json!({ "how": how, "from": from }),
    }
}

fn ports_from_json(value: &Value) -> Option<Allocation> {
    let optional = |name: &str| match value.get(name)? {
        Value::Null => Some(None),
        value => Some(Some(value)),
    };
    Some(match value.get("how")?.as_str()? {
        "preserving" => Allocation::Preserving,
        "random" => Allocation::Random,
        "preserve-first" => Allocation::PreserveFirst {
            step: match optional("step")? {
                None => None,
                Some(step) => Some(number(step)?),
            },
        },
        "counter" => Allocation::Counter {
            step: number(value.get("step")?)?,
            rate: match optional("foreign_per_s")? {
                None => None,
                Some(rate) => Some(number(rate)?),
            },
        },
        "block" => Allocation::Block {
            low: number(value.get("low")?)?,
            high: number(value.get("high")?)?,
            seen: (
                number(value.get("seen")?.get(0)?)?,
                number(value.get("seen")?.get(1)?)?,
            ),
        },
        "half-range" => Allocation::HalfRange {
            from: number(value.get("from")?)?,
        },
        _ => return None,
    })
}

fn sign_to_json(sign: &Sign) -> Value {
    let (kind, says) = (sign.word(), sign.sentence());
    match sign {
        Sign::SharedLocal(address) => json!({ "kind": kind, "says": says, "address": address }),
        Sign::SharedHop { ttl, router } | Sign::PrivateHop { ttl, router } => {
            json!({ "kind": kind, "says": says, "hop": ttl, "address": router })
        }
        Sign::FilterAtHop(hop) => json!({ "kind": kind, "says": says, "hop": hop }),
        Sign::PortBlock | Sign::SeveralAddresses => json!({ "kind": kind, "says": says }),
    }
}

fn sign_from_json(value: &Value) -> Option<Sign> {
    let address = || value.get("address")?.as_str()?.parse().ok();
    let hop = || number(value.get("hop")?);
    Some(match value.get("kind")?.as_str()? {
        "shared-local" => Sign::SharedLocal(address()?),
        "shared-hop" => Sign::SharedHop {
            ttl: hop()?,
            router: address()?,
        },
        "private-hop" => Sign::PrivateHop {
            ttl: hop()?,
            router: address()?,
        },
        "filter-at-hop" => Sign::FilterAtHop(hop()?),
        "port-block" => Sign::PortBlock,
        "several-addresses" => Sign::SeveralAddresses,
        _ => return None,
    })
}

/// Facts on their way into an object.
#[derive(Default)]
struct Facts {
    known: Map<String, Value>,
    not_testable: BTreeMap<String, &'static str>,
}

impl Facts {
    fn put<T: Copy>(&mut self, name: &str, fact: Fact<T>, write: impl FnOnce(T) -> Value) {
        let value = match fact {
            Fact::Known(value) => write(value),
            Fact::NotTestable(why) => {
                self.not_testable.insert(name.to_owned(), why.word());
                Value::Null
            }
        };
        self.known.insert(name.to_owned(), value);
    }

    fn finish(self, mut fields: Map<String, Value>) -> Map<String, Value> {
        fields.extend(self.known);
        fields.insert("not_testable".to_owned(), json!(self.not_testable));
        fields
    }
}

/// Facts on their way out of an object.
struct Reader<'a> {
    known: &'a Map<String, Value>,
    not_testable: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    fn of(fields: &'a Map<String, Value>) -> Option<Self> {
        Some(Self {
            known: fields,
            not_testable: fields.get("not_testable")?.as_object()?,
        })
    }

    fn get<T>(&self, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<Fact<T>> {
        match self.known.get(name)? {
            Value::Null => {
                let word = self.not_testable.get(name)?.as_str()?;
                Some(Fact::NotTestable(Obstacle::from_word(word)?))
            }
            value => Some(Fact::Known(read(value)?)),
        }
    }
}

fn parse_all<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(read).collect()
}

fn number<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_i64()?).ok()
}

/// Milliseconds with three digits behind the point.
#[allow(clippy::cast_precision_loss)] // exact up to 2^53 microseconds, 285 years
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn duration(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_f64()? / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family() -> FamilyFacts {
        FamilyFacts {
            reach: Reach::Works,
            local: Some("192.168.1.2:4000".parse().unwrap()),
            reflexive: Some("5.5.5.5:4000".parse().unwrap()),
            translated: Fact::Known(true),
            mapping: Fact::Known(Mapping::AddressDependent),
            port_dependent: Fact::Known(false),
            filtering: Fact::NotTestable(Obstacle::OneAddress),
            other_port_passes: Fact::Known(true),
            opener_ttl: Fact::Known(3),
        }
    }

    fn fingerprint(ports: Allocation, signs: Vec<Sign>) -> Fingerprint {
        Fingerprint {
            v4: family(),
            v6: FamilyFacts::unknown(Reach::NoLocalAddress, Obstacle::NoLocalAddress),
            through_nat64: false,
            addresses: vec!["5.5.5.5".parse().unwrap()],
            ports: Fact::Known(ports),
            hairpin: Fact::Known(Hairpin::Absent),
            udp_blocked: Fact::Known(false),
            signs,
            rtt: Some(Duration::from_millis(12)),
            packets: 41,
            took: Duration::from_millis(1500),
        }
    }

    #[test]
    fn whatever_is_written_is_read_back_the_same() {
        let router = "100.64.0.1".parse().unwrap();
        let signs = vec![
            Sign::SharedLocal(router),
            Sign::SharedHop { ttl: 2, router },
            Sign::PrivateHop { ttl: 3, router },
            Sign::FilterAtHop(2),
            Sign::PortBlock,
            Sign::SeveralAddresses,
        ];
        for ports in [
            Allocation::Preserving,
            Allocation::PreserveFirst { step: Some(-1) },
            Allocation::PreserveFirst { step: None },
            Allocation::Counter {
                step: 2,
                rate: Some(30),
            },
            Allocation::Counter { step: -1, rate: None },
            Allocation::Block {
                low: 1024,
                high: 2047,
                seen: (1030, 2000),
            },
            Allocation::HalfRange { from: 32_768 },
            Allocation::Random,
        ] {
            let fingerprint = fingerprint(ports, signs.clone());
            let text = Value::Object(to_json(&fingerprint)).to_string();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(from_json(value.as_object().unwrap()), Some(fingerprint));
        }
    }

    #[test]
    fn a_fact_that_is_not_known_is_null_and_says_why() {
        let fields = to_json(&fingerprint(Allocation::Random, Vec::new()));
        assert_eq!(fields["v4"]["filtering"], Value::Null);
        assert_eq!(fields["v4"]["not_testable"]["filtering"], "one-address");
        assert_eq!(fields["class"], "address-dependent");
    }

    #[test]
    fn an_object_that_lacks_or_twists_something_is_none() {
        let whole = to_json(&fingerprint(Allocation::Random, vec![Sign::PortBlock]));
        for name in [
            "v4",
            "v6",
            "ports",
            "signs",
            "not_testable",
            "packets",
            "addresses",
            "took_ms",
        ] {
            let mut without = whole.clone();
            without.remove(name);
            assert_eq!(from_json(&without), None, "{name}");
            let mut twisted = whole.clone();
            twisted.insert(name.to_owned(), json!("x"));
            assert_eq!(from_json(&twisted), None, "{name}");
        }
    }
}
