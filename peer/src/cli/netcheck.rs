//! `knothole netcheck`: what the network does to this machine's packets, and what that means for connections.

use std::fmt::Write;

use knothole_proto::server_url::ServerUrl;
use serde_json::{Map, Value, json};

use super::args::NetcheckArgs;
use super::context::Context;
use super::failure::{Failure, code};
use super::odds::{counted, lines, rows};
use super::output::ms;
use crate::netcheck::{
    Fact, FamilyFacts, Fingerprint, Hairpin, Learnt, NetcheckError, NetcheckOptions, Obstacle, Odds, Reach,
    Report, Verdict, netcheck, odds, ports_in_words, to_json, verdict,
};

/// Width that everything is wrapped to: the narrowest usual terminal.
const COLUMNS: usize = 80;

/// Columns of the names of facts: the longest has 11 letters.
const NAMES: usize = 13;

/// Port of a STUN server unless told otherwise (RFC 8489 section 8.6).
const STUN_PORT: u16 = 3478;

/// Check and tell.
pub(super) async fn run(context: &Context, args: NetcheckArgs) -> Result<(), Failure> {
    // Once: its line may come from stdin.
    let own = match args.stun.is_empty() {
        true => Some(own_server(context).await?),
        false => None,
    };
    let servers = match &own {
        Some(server) => vec![(server.host.clone(), server.port)],
        None => named_servers(&args)?,
    };
    let names: Vec<&str> = servers.iter().map(|(host, _)| host.as_str()).collect();
    context
        .output
        .talk(format_args!("asking {} ...", names.join(" and ")));
    let options = NetcheckOptions {
        servers,
        cache: Some(context.home.networks()),
        fresh: args.fresh,
    };
    let observe = |fact: &Learnt| tracing::info!(?fact, "learnt");
    let report = context
        .within("the network check", netcheck(options, observe))
        .await??;
    let said = verdict(&report.fingerprint);
    let expected = if said.problem {
        Vec::new()
    } else {
        odds(&report.fingerprint, &counted(context, own).await)
    };
    tell(context, &report, &said, &expected);
    if !said.problem {
        return Ok(());
    }
    Err(Failure::new(
        code::PROBLEM,
        format!("{} does not answer over UDP", report.server),
        said.advice.unwrap_or_default(),
    ))
}

/// The servers that were named for this.
fn named_servers(args: &NetcheckArgs) -> Result<Vec<(String, u16)>, Failure> {
    let named = args.stun.iter().map(|text| {
        parse(text).ok_or_else(|| {
            Failure::new(
                code::USAGE,
                format!("{text:?} is no host with a port"),
                "--stun HOST:PORT, such as stun.example.org:3478",
            )
        })
    });
    named.collect()
}

/// The node's own server.
async fn own_server(context: &Context) -> Result<ServerUrl, Failure> {
    let server = context.server(&context.book()?).await;
    server.map_err(|failure| match failure.code {
        code::CONFIG if failure.message.contains("no server yet") => Failure {
            hint: "--stun HOST:PORT with any STUN server of RFC 5780, or --server with the line of your own"
                .to_owned(),
            ..failure
        },
        _ => failure,
    })
}

fn parse(text: &str) -> Option<(String, u16)> {
    let bare = |host: &str| {
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-:%".contains(c);
        (!host.is_empty() && host.chars().all(legal)).then(|| host.to_owned())
    };
    if text.parse::<std::net::Ipv6Addr>().is_ok() || text.ends_with(']') || !text.contains(':') {
        return Some((bare(text)?, STUN_PORT));
    }
    let (host, port) = text.rsplit_once(':')?;
    Some((bare(host)?, port.parse().ok().filter(|port| *port != 0)?))
}

fn tell(context: &Context, report: &Report, said: &Verdict, expected: &[Odds]) {
    let fingerprint = &report.fingerprint;
    let mut fields = Map::new();
    let cached = report.cached_for.map(|age| age.as_secs());
    for (name, value) in [
        ("server", json!(report.server)),
        ("cached_s", json!(cached)),
        ("verdict", json!(format!("{} {}", said.network, said.direct))),
        ("advice", json!(said.advice)),
        ("odds", json!(rows(expected))),
    ] {
        fields.insert(name.to_owned(), value);
    }
    fields.extend(to_json(fingerprint));
    context.output.event("netcheck", Value::Object(fields));
    let mut text = wrapped("", &format!("{} {}", said.network, said.direct));
    if let Some(advice) = &said.advice {
        text.push_str(&wrapped("", advice));
    }
    text.push('\n');
    for (name, words) in facts(report) {
        text.push_str(&wrapped(&format!("{name:NAMES$}"), &words));
    }
    for (number, words) in lines(expected).iter().enumerate() {
        let name = if number == 0 { "direct paths" } else { "" };
        text.push_str(&wrapped(&format!("{name:NAMES$}"), words));
    }
    context.output.fact(text.trim_end());
}

/// Every fact with what it rests on.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let fingerprint = &report.fingerprint;
    let v4 = &fingerprint.v4;
    let mut facts = vec![("IPv4", family(v4, fingerprint.through_nat64))];
    if v4.reach == Reach::Works {
        if fingerprint.addresses.len() > 1 {
            let all: Vec<String> = fingerprint.addresses.iter().map(ToString::to_string).collect();
            facts.push(("addresses", format!("several: {}", all.join(", "))));
        }
        facts.push(("mapping", mapping(v4)));
        facts.push(("filtering", filtering(v4)));
        facts.push(("ports", or_why(fingerprint.ports, |ports| ports_in_words(&ports))));
        facts.push(("hairpin", or_why(fingerprint.hairpin, hairpin)));
        facts.push(("filter at", or_why(v4.opener_ttl, depth)));
    }
    facts.push(("IPv6", family(&fingerprint.v6, false)));
    if fingerprint.v6.reach == Reach::Works {
        facts.push(("IPv6 filter", filtering(&fingerprint.v6)));
    }
    facts.push(("carrier NAT", carrier(fingerprint)));
    let mut measured = format!(
        "{} packets in {:.1} s",
        fingerprint.packets,
        fingerprint.took.as_secs_f64()
    );
    if let Some(rtt) = fingerprint.rtt {
        let _ = write!(measured, ", round trip {:.1} ms", ms(rtt));
    }
    if let Some(age) = report.cached_for {
        let _ = write!(
            measured,
            ", {} min ago; the address is still the same (--fresh measures anew)",
            age.as_secs() / 60
        );
    }
    facts.push(("measured", measured));
    facts
}

fn family(family: &FamilyFacts, nat64: bool) -> String {
    let text = |endpoint: Option<std::net::SocketAddr>| endpoint.map_or("-".to_owned(), |at| at.to_string());
    let (local, seen) = (text(family.local), text(family.reflexive));
    match (family.reach, family.translated) {
        (Reach::Works, Fact::Known(false)) => format!("works, not translated: {seen} is this machine's own"),
        (Reach::Works, _) if nat64 => format!("works through a NAT64: {local} is seen as {seen}"),
        (Reach::Works, _) => format!("works, translated: {local} is seen as {seen}"),
        (Reach::NoAnswer, _) => "no answer: blocked, or the server is down".to_owned(),
        (Reach::NoLocalAddress, _) => "this machine has no way out by it".to_owned(),
        (Reach::NoServerAddress, _) => not_testable(Obstacle::NoServerAddress),
    }
}

fn mapping(family: &FamilyFacts) -> String {
    use crate::netcheck::Mapping;
    match (family.mapping, family.port_dependent) {
        (Fact::Known(Mapping::EndpointIndependent), _) => {
            "endpoint-independent: one port for all addresses and ports of the server".to_owned()
        }
        (Fact::Known(Mapping::AddressDependent), _) => {
            "address-dependent: another port for the server's second address, the same for its second port"
                .to_owned()
        }
        (Fact::Known(Mapping::AddressAndPortDependent), _) => {
            "address- and port-dependent (symmetric): another port for each port of the server".to_owned()
        }
        (Fact::NotTestable(why), Fact::Known(false)) => {
            format!(
                "the same for both ports of the server; by address {}",
                not_testable(why)
            )
        }
        (Fact::NotTestable(why), _) => not_testable(why),
    }
}

fn filtering(family: &FamilyFacts) -> String {
    use crate::netcheck::Filtering;
    match (family.filtering, family.other_port_passes) {
        (Fact::Known(Filtering::EndpointIndependent), _) => {
            "none: an address that was not sent to gets through".to_owned()
        }
        (Fact::Known(Filtering::AddressDependent), _) => {
            "by address: another port of the server gets through, its other address does not".to_owned()
        }
        (Fact::Known(Filtering::AddressAndPortDependent), _) => {
            "by address and port: another port of the server does not get through".to_owned()
        }
        (Fact::NotTestable(why), Fact::Known(true)) => {
            format!(
                "another port of the server gets through; by address {}",
                not_testable(why)
            )
        }
        (Fact::NotTestable(why), _) => not_testable(why),
    }
}

fn hairpin(hairpin: Hairpin) -> String {
    match hairpin {
        Hairpin::External => "yes: packets to the own public address come back in",
        Hairpin::Internal => "by the inside address only, which helps machines of one network",
        Hairpin::Absent => "none seen: packets to the own public address do not come back",
    }
    .to_owned()
}

fn depth(ttl: u8) -> String {
    match ttl {
        1 => "this machine itself".to_owned(),
        2 => "the first router".to_owned(),
        ttl => format!(
            "router {} on the way: there is a router or a second NAT before it",
            ttl - 1
        ),
    }
}

fn carrier(fingerprint: &Fingerprint) -> String {
    let signs: Vec<String> = fingerprint.signs.iter().map(|sign| sign.sentence()).collect();
    match (fingerprint.carrier_nat(), signs.is_empty()) {
        (Fact::Known(true), _) => format!("yes: {}", signs.join("; ")),
        (Fact::Known(false), _) => "no: nothing is translated".to_owned(),
        (Fact::NotTestable(_), false) => format!("perhaps: {}", signs.join("; ")),
        (Fact::NotTestable(why), true) => not_testable(why),
    }
}

fn or_why<T: Copy>(fact: Fact<T>, words: impl FnOnce(T) -> String) -> String {
    match fact {
        Fact::Known(value) => words(value),
        Fact::NotTestable(why) => not_testable(why),
    }
}

fn not_testable(why: Obstacle) -> String {
    format!("not testable: {}", why.sentence())
}

/// Words in lines of at most [`COLUMNS`], the first after `label` and the others below its end. Ends with a new line.
fn wrapped(label: &str, words: &str) -> String {
    let indent = label.chars().count();
    let (mut text, mut column) = (label.to_owned(), indent);
    for (number, word) in words.split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > COLUMNS {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if number > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
    text
}

impl From<NetcheckError> for Failure {
    fn from(error: NetcheckError) -> Self {
        let (code, hint) = match &error {
            NetcheckError::Resolve { .. } => (code::SERVER, "check the host name, and the network"),
            NetcheckError::NoRoute { .. } => (code::SERVER, "check that this machine is in a network"),
            NetcheckError::Entropy => (code::OTHER, ""),
        };
        Self::new(code, error.to_string(), hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_as_people_write_it() {
        let of = |text: &str| parse(text).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(of("stun.example.org:19302").unwrap(), "stun.example.org 19302");
        assert_eq!(of("stun.example.org").unwrap(), "stun.example.org 3478");
        assert_eq!(of("192.0.2.1:9").unwrap(), "192.0.2.1 9");
        assert_eq!(of("[2001:db8::1]:9").unwrap(), "2001:db8::1 9");
        assert_eq!(of("[2001:db8::1]").unwrap(), "2001:db8::1 3478");
        assert_eq!(of("2001:db8::1").unwrap(), "2001:db8::1 3478");
        for bad in [
            "",
            ":9",
            "host:0",
            "host:99999",
            "host:x",
            "ho st:9",
            "a\u{1b}b:9",
            "[]:9",
        ] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lines_are_wrapped_below_their_label() {
        let text = wrapped("label        ", &"word ".repeat(40));
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS));
        assert!(
            text.lines().count() > 2
                && text
                    .lines()
                    .skip(1)
                    .all(|line| line.starts_with("             word"))
        );
    }
}
