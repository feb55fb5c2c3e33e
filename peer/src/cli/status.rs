//! `knothole status`: what the `up` of this machine says of itself.

use serde_json::{Value, json};

use super::context::Context;
use super::failure::Failure;
use super::local::{self, Asked};

/// Ask and print.
pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let output = &context.output;
    let Some(status) = local::ask(&context.home.socket(), Asked::Status).await else {
        let book = context.book()?;
        let next = if book.server.is_some() {
            "knothole up"
        } else {
            "knothole up --server 'knot://...'"
        };
        output.fact("up does not run on this machine");
        output.fact(format_args!("next: {next}"));
        output.event("status", json!({ "running": false, "next": next }));
        return Ok(());
    };
    output.event("status", status.clone());
    for line in lines(&status) {
        output.fact(line);
    }
    Ok(())
}

/// The same for people.
fn lines(status: &Value) -> Vec<String> {
    let registered = &status["registered"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let state = match status["connected"].as_bool() {
        Some(true) => "connected",
        _ => "lost, trying again",
    };
    let mut lines = vec![
        format!("up runs for {} s", status["up_s"]),
        format!(
            "this machine    {}  {}",
            text(&registered["name"]),
            text(&registered["id"])
        ),
        format!("server          {} ({state})", text(&status["server"])),
        format!("public address  {}", text(&registered["reflexive"])),
        format!("NAT             {}", text(&registered["nat"])),
    ];
    let links = status["links"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    for link in links {
        let detail = link["how"].as_str().or(link["why"].as_str()).unwrap_or("-");
        lines.push(format!(
            "link            {}  {}: {detail}",
            text(&link["peer"]),
            text(&link["kind"])
        ));
    }
    if links.is_empty() {
        lines.push("links           none".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_whole() {
        let status = json!({
            "connected": true, "up_s": 12, "server": "knot://h:1/k",
            "registered": { "name": "nas", "id": "abc", "reflexive": "1.2.3.4:5", "nat": "none" },
            "links": [{ "peer": "lap", "kind": "direct", "how": "punched" }, { "peer": "x", "kind": "relay", "why": "w" }],
        });
        let text = lines(&status).join("\n");
        for part in [
            "12 s",
            "nas  abc",
            "(connected)",
            "1.2.3.4:5",
            "lap  direct: punched",
            "x  relay: w",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(lines(&json!({})).join("\n").contains("links           none"));
    }
}
