//! Dicts: maps from text to anything. `set`, `unset` and `merge` give a new dict; they do not change the
//! one they are given, so write `$d = set $d "key" "value"`.

use serde_json::{Map, Value, json};

use super::{ANY, Function, Outcome, dict, function, text};

pub static TABLE: &[Function] = &[
    function("dict", 0, ANY, |a| {
        let pairs = a.chunks(2).map(|p| (text(&p[0]).into_owned(), p.get(1).cloned().unwrap_or_else(|| json!(""))));
        Ok(Value::Object(pairs.collect()))
    }),
    function("get", 2, 2, |a| Ok(dict(&a[0])?.get(&*text(&a[1])).cloned().unwrap_or_else(|| json!("")))),
    function("set", 3, 3, |a| {
        let mut items = dict(&a[0])?.clone();
        items.insert(text(&a[1]).into_owned(), a[2].clone());
        Ok(items.into())
    }),
    function("unset", 2, 2, |a| {
        let mut items = dict(&a[0])?.clone();
        items.remove(&*text(&a[1]));
        Ok(items.into())
    }),
    function("hasKey", 2, 2, |a| Ok(dict(&a[0])?.contains_key(&*text(&a[1])).into())),
    function("keys", 0, ANY, |a| {
        let dicts: Vec<_> = a.iter().map(dict).collect::<Result<_, _>>()?;
        Ok(dicts.into_iter().flat_map(|d| d.keys().cloned()).collect())
    }),
    function("values", 1, 1, |a| Ok(dict(&a[0])?.values().cloned().collect())),
    function("pick", 1, ANY, |a| chosen(a, true)),
    function("omit", 1, ANY, |a| chosen(a, false)),
    function("merge", 1, ANY, |a| merged(a, false)),
    function("mergeOverwrite", 1, ANY, |a| merged(a, true)),
    function("pluck", 1, ANY, |a| {
        let key = text(&a[0]);
        let dicts: Vec<_> = a[1..].iter().map(dict).collect::<Result<_, _>>()?;
        Ok(dicts.into_iter().filter_map(|d| d.get(&*key).cloned()).collect())
    }),
    function("dig", 3, ANY, dig),
];

fn chosen(a: &[Value], named: bool) -> Outcome {
    let names: Vec<_> = a[1..].iter().map(text).collect();
    let items = dict(&a[0])?.iter().filter(|(k, _)| names.iter().any(|n| n == k.as_str()) == named);
    Ok(Value::Object(items.map(|(k, v)| (k.clone(), v.clone())).collect()))
}

fn merged(a: &[Value], overwrite: bool) -> Outcome {
    let mut out = Map::new();
    for part in a {
        merge_into(&mut out, dict(part)?, overwrite);
    }
    Ok(out.into())
}

fn merge_into(out: &mut Map<String, Value>, from: &Map<String, Value>, overwrite: bool) {
    for (key, value) in from {
        match (out.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(more)) => merge_into(inner, more, overwrite),
            (Some(_), _) if !overwrite => {}
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
}

/// `dig KEY… DEFAULT DICT`: the value at the end of the keys, or the default where one is missing.
fn dig(a: &[Value]) -> Outcome {
    let [keys @ .., default, whole] = a else { return Err("it takes keys, a default and a dict".into()) };
    let mut at = whole;
    dict(whole)?;
    for key in keys {
        match at.get(&*text(key)) {
            Some(next) => at = next,
            None => return Ok(default.clone()),
        }
    }
    Ok(at.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn dicts() {
        check(&[
            ("dict", json!(["a", 1, "b"]), json!({"a": 1, "b": ""})),
            ("get", json!([{"a": 1}, "a"]), json!(1)),
            ("get", json!([{"a": 1}, "b"]), json!("")),
            ("set", json!([{"a": 1}, "b", 2]), json!({"a": 1, "b": 2})),
            ("unset", json!([{"a": 1}, "a"]), json!({})),
            ("hasKey", json!([{"a": 1}, "a"]), json!(true)),
            ("keys", json!([{"b": 1, "a": 1}, {"c": 1}]), json!(["a", "b", "c"])),
            ("values", json!([{"b": 1, "a": 2}]), json!([2, 1])),
            ("pick", json!([{"a": 1, "b": 2}, "a"]), json!({"a": 1})),
            ("omit", json!([{"a": 1, "b": 2}, "a"]), json!({"b": 2})),
            (
                "merge",
                json!([{"a": 1, "d": {"x": 1}}, {"a": 2, "d": {"y": 2}}]),
                json!({"a": 1, "d": {"x": 1, "y": 2}}),
            ),
            ("mergeOverwrite", json!([{"a": 1}, {"a": 2}]), json!({"a": 2})),
            ("pluck", json!(["a", {"a": 1}, {"b": 1}, {"a": 3}]), json!([1, 3])),
            ("dig", json!(["a", "b", "none", {"a": {"b": 1}}]), json!(1)),
            ("dig", json!(["a", "c", "none", {"a": {"b": 1}}]), json!("none")),
        ]);
    }
}
