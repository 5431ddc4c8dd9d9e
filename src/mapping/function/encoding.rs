//! Encodings and checksums of texts, and JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::Digest as _;

use super::{Function, Outcome, function, text};
use crate::image::go_json;

pub static TABLE: &[Function] = &[
    function("b64enc", 1, 1, |a| Ok(STANDARD.encode(text(&a[0]).as_bytes()).into())),
    function("b64dec", 1, 1, |a| decoded(STANDARD.decode(text(&a[0]).as_bytes()).ok(), "base64")),
    function("b32enc", 1, 1, |a| Ok(base32(text(&a[0]).as_bytes()).into())),
    function("b32dec", 1, 1, |a| decoded(base32_bytes(&text(&a[0])), "base32")),
    function("sha1sum", 1, 1, |a| Ok(hex::encode(sha1::Sha1::digest(text(&a[0]).as_bytes())).into())),
    function("sha256sum", 1, 1, |a| Ok(hex::encode(sha2::Sha256::digest(text(&a[0]).as_bytes())).into())),
    function("sha512sum", 1, 1, |a| Ok(hex::encode(sha2::Sha512::digest(text(&a[0]).as_bytes())).into())),
    function("adler32sum", 1, 1, |a| Ok(adler32(text(&a[0]).as_bytes()).to_string().into())),
    function("toJson", 1, 1, go_style),
    function("mustToJson", 1, 1, go_style),
    function("toRawJson", 1, 1, |a| Ok(a[0].to_string().into())),
    function("mustToRawJson", 1, 1, |a| Ok(a[0].to_string().into())),
    function("toPrettyJson", 1, 1, |a| serde_json::to_string_pretty(&a[0]).map(Into::into).map_err(|e| e.to_string())),
    function("fromJson", 1, 1, parsed),
    function("mustFromJson", 1, 1, parsed),
];

fn decoded(bytes: Option<Vec<u8>>, form: &str) -> Outcome {
    let bytes = bytes.ok_or_else(|| format!("the text is not {form}"))?;
    String::from_utf8(bytes).map(Into::into).map_err(|_| "what is encoded there is not text".into())
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// RFC 4648, section 6.
fn base32(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(5) {
        let mut group = [0u8; 8];
        group[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(group);
        let digits = (chunk.len() * 8).div_ceil(5);
        for i in 0..8 {
            let digit = BASE32[(bits >> (35 - 5 * i)) as usize & 31];
            out.push(if i < digits { char::from(digit) } else { '=' });
        }
    }
    out
}

fn base32_bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(8) {
        return None;
    }
    let (mut bits, mut held, mut out) = (0u32, 0u32, Vec::new());
    for digit in digits.bytes() {
        bits = bits << 5 | BASE32.iter().position(|b| *b == digit)? as u32;
        held += 5;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

/// RFC 1950, section 8.2.
fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    b << 16 | a
}

/// JSON as Go writes it: `<`, `>` and `&` escaped.
fn go_style(a: &[Value]) -> Outcome {
    let bytes = go_json::compact(&a[0]).map_err(|e| e.to_string())?;
    String::from_utf8(bytes).map(Into::into).map_err(|e| e.to_string())
}

fn parsed(a: &[Value]) -> Outcome {
    serde_json::from_str(&text(&a[0])).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{call, check};

    #[test]
    fn encodings_and_sums() {
        check(&[
            ("b64enc", json!(["hello"]), json!("aGVsbG8=")),
            ("b64dec", json!(["aGVsbG8="]), json!("hello")),
            ("b32enc", json!(["foobar"]), json!("MZXW6YTBOI======")),
            ("b32dec", json!(["MZXW6YTBOI======"]), json!("foobar")),
            ("b32enc", json!(["fooba"]), json!("MZXW6YTB")),
            ("sha1sum", json!(["hello"]), json!("aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d")),
            ("sha256sum", json!(["{}"]), json!("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")),
            ("adler32sum", json!(["Wikipedia"]), json!("300286872")),
            ("toJson", json!([{"a": "<b>"}]), json!("{\"a\":\"\\u003cb\\u003e\"}")),
            ("toRawJson", json!([{"a": "<b>"}]), json!("{\"a\":\"<b>\"}")),
            ("toPrettyJson", json!([{"a": 1}]), json!("{\n  \"a\": 1\n}")),
            ("fromJson", json!(["{\"a\":[1]}"]), json!({"a": [1]})),
        ]);
        assert_eq!(call("sha512sum", json!([""])).unwrap().as_str().unwrap().len(), 128);
        for (name, bad) in [("b64dec", "%"), ("b32dec", "a1"), ("fromJson", "{")] {
            assert!(call(name, json!([bad])).is_err(), "{name}");
        }
    }
}
