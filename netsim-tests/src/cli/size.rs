//! Sizes as people write them: `512`, `64KiB`, `1.5GiB`, `10MB`.

/// Bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1024.0 * 1024.0,
        "gib" | "g" => 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err("expected a size such as 256MiB, 1GiB or 10MB".to_owned()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "expected a size such as 256MiB, 1GiB or 10MB".to_owned())?;
    let bytes = number * factor;
    // 2^53 bytes are 8 PiB: beyond it a floating-point number no longer counts single bytes.
    if !(0.0..9e15).contains(&bytes) {
        return Err("that size is out of range".to_owned());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // just checked
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("512", 512),
            ("64KiB", 65536),
            ("1.5GiB", 1_610_612_736),
            ("10MB", 10_000_000),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "1XiB", "1e3", "99999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
