//! Every kind in memory, and wrong descriptions caught.

use super::*;
use crate::nat::kinds;

#[test]
fn every_kind_measures_in_memory_as_what_it_is_described() {
    let mut wrong = Vec::new();
    for kind in kinds() {
        let began = std::time::Instant::now();
        let report = verify_in_memory(kind).unwrap();
        eprintln!(
            "{:<25} {:?} {}",
            kind.name,
            began.elapsed(),
            serde_json::to_string(&report.measured).unwrap()
        );
        wrong.extend(
            report
                .disagreements
                .iter()
                .map(|one| format!("{}: {one}", kind.name)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
