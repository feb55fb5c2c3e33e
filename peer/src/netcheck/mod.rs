mod json;
pub use json::{from_json, to_json};
