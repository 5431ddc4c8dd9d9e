//! Defaults, choices, kinds.

use serde_json::Value;

use super::{ANY, Function, function, is_empty, text};

pub static TABLE: &[Function] = &[
    function("default", 1, 2, |a| {
        let given = a.get(1).unwrap_or(&Value::Null);
        Ok(if is_empty(given) { a[0].clone() } else { given.clone() })
    }),
    function("empty", 1, 1, |a| Ok(is_empty(&a[0]).into())),
    function("coalesce", 0, ANY, |a| Ok(a.iter().find(|v| !is_empty(v)).cloned().unwrap_or_default())),
    function("ternary", 3, 3, |a| Ok(if is_empty(&a[2]) { a[1].clone() } else { a[0].clone() })),
    function("all", 0, ANY, |a| Ok((!a.iter().any(is_empty)).into())),
    function("any", 0, ANY, |a| Ok(a.iter().any(|v| !is_empty(v)).into())),
    function("fail", 1, 1, |a| Err(text(&a[0]).into_owned())),
    function("kindOf", 1, 1, |a| Ok(kind(&a[0]).into())),
    function("kindIs", 2, 2, |a| Ok((text(&a[0]) == kind(&a[1])).into())),
    function("typeOf", 1, 1, |a| Ok(type_name(&a[0]).into())),
    function("typeIs", 2, 2, |a| Ok((text(&a[0]) == type_name(&a[1])).into())),
    function("typeIsLike", 2, 2, |a| Ok((text(&a[0]).trim_start_matches('*') == type_name(&a[1])).into())),
    function("deepEqual", 2, 2, |a| Ok((a[0] == a[1]).into())),
];

/// The kind by its Go name.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        other => kind(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{call, check};

    #[test]
    fn logic() {
        check(&[
            ("default", json!(["d", ""]), json!("d")),
            ("default", json!(["d", "v"]), json!("v")),
            ("default", json!(["d", 0]), json!("d")),
            ("default", json!(["d"]), json!("d")),
            ("empty", json!([[]]), json!(true)),
            ("coalesce", json!([0, "", null, "x", "y"]), json!("x")),
            ("ternary", json!(["yes", "no", true]), json!("yes")),
            ("ternary", json!(["yes", "no", false]), json!("no")),
            ("all", json!([1, "a", true]), json!(true)),
            ("all", json!([1, ""]), json!(false)),
            ("any", json!(["", 0, "x"]), json!(true)),
            ("kindOf", json!([[1]]), json!("slice")),
            ("kindIs", json!(["map", {}]), json!(true)),
            ("typeOf", json!(["a"]), json!("string")),
            ("typeIs", json!(["bool", true]), json!(true)),
            ("deepEqual", json!([[1], [1]]), json!(true)),
        ]);
        assert_eq!(call("fail", json!(["no such team"])).unwrap_err(), "fail: no such team");
    }
}
