//! Lists. Each function gives a new list; none changes its argument.

use serde_json::{Value, json};

use super::{ANY, Function, MAX_ITEMS, Outcome, function, integer, is_empty, list};

pub static TABLE: &[Function] = &[
    function("list", 0, ANY, |a| Ok(a.into())),
    function("tuple", 0, ANY, |a| Ok(a.into())),
    function("first", 1, 1, |a| Ok(list(&a[0])?.first().cloned().unwrap_or_default())),
    function("last", 1, 1, |a| Ok(list(&a[0])?.last().cloned().unwrap_or_default())),
    function("rest", 1, 1, |a| Ok(list(&a[0])?.get(1..).unwrap_or_default().into())),
    function("initial", 1, 1, |a| Ok(list(&a[0])?.split_last().map_or(json!([]), |(_, rest)| rest.into()))),
    function("append", 2, 2, |a| concat(&[list(&a[0])?, &a[1..]])),
    function("push", 2, 2, |a| concat(&[list(&a[0])?, &a[1..]])),
    function("prepend", 2, 2, |a| concat(&[&a[1..], list(&a[0])?])),
    function("concat", 0, ANY, |a| concat(&a.iter().map(list).collect::<Result<Vec<_>, _>>()?)),
    function("reverse", 1, 1, |a| Ok(list(&a[0])?.iter().rev().cloned().collect())),
    function("uniq", 1, 1, |a| uniq(list(&a[0])?)),
    function("without", 1, ANY, |a| Ok(list(&a[0])?.iter().filter(|v| !a[1..].contains(v)).cloned().collect())),
    function("has", 2, 2, |a| Ok(list(&a[1])?.contains(&a[0]).into())),
    function("compact", 1, 1, |a| Ok(list(&a[0])?.iter().filter(|v| !is_empty(v)).cloned().collect())),
    function("slice", 1, 3, slice),
    function("chunk", 2, 2, |a| {
        let size = usize::try_from(integer(&a[0])?).unwrap_or(0);
        if size == 0 {
            return Err("a chunk has at least one item".into());
        }
        Ok(list(&a[1])?.chunks(size).map(Value::from).collect())
    }),
    function("until", 1, 1, |a| {
        let end = integer(&a[0])?;
        Ok(steps(0, end, if end < 0 { -1 } else { 1 })?.into())
    }),
    function("untilStep", 3, 3, |a| Ok(steps(integer(&a[0])?, integer(&a[1])?, integer(&a[2])?)?.into())),
    function("seq", 1, 3, seq),
];

fn concat(parts: &[&[Value]]) -> Outcome {
    if parts.iter().map(|p| p.len()).sum::<usize>() > MAX_ITEMS {
        return Err("the result is too large".into());
    }
    Ok(parts.concat().into())
}

fn uniq(items: &[Value]) -> Outcome {
    let mut seen = std::collections::HashSet::new();
    Ok(items.iter().filter(|v| seen.insert(v.to_string())).cloned().collect())
}

/// `slice LIST [START [END]]`.
fn slice(a: &[Value]) -> Outcome {
    let items = list(&a[0])?;
    let place = |value: &Value| {
        usize::try_from(integer(value)?).ok().filter(|n| *n <= items.len()).ok_or("it is outside the list".to_string())
    };
    let start = a.get(1).map_or(Ok(0), place)?;
    let end = a.get(2).map_or(Ok(items.len()), place)?;
    Ok(items.get(start..end).ok_or("it ends before it starts")?.into())
}

fn steps(start: i64, end: i64, step: i64) -> Result<Vec<i64>, String> {
    let mut out = Vec::new();
    if step == 0 && start != end {
        return Err("a step of 0 never arrives".into());
    }
    let mut at = start;
    while (step > 0 && at < end) || (step < 0 && at > end) {
        if out.len() >= MAX_ITEMS {
            return Err(format!("more than {MAX_ITEMS} numbers"));
        }
        out.push(at);
        at = at.saturating_add(step);
    }
    Ok(out)
}

/// `seq END`, `seq START END`, `seq START STEP END`: a text of numbers, as the shell command writes them.
fn seq(a: &[Value]) -> Outcome {
    let n: Vec<i64> = a.iter().map(integer).collect::<Result<_, _>>()?;
    let (start, step, end) = match n[..] {
        [end] => (1, None, end),
        [start, end] => (start, None, end),
        [start, step, end] => (start, Some(step), end),
        _ => return Ok("".into()),
    };
    let step = step.unwrap_or(if end < start { -1 } else { 1 });
    if (end < start && step > 0) || (end > start && step < 0) || step == 0 {
        return Ok("".into());
    }
    let numbers = steps(start, end.saturating_add(step.signum()), step)?;
    Ok(numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn lists() {
        check(&[
            ("list", json!([1, "a"]), json!([1, "a"])),
            ("first", json!([[1, 2]]), json!(1)),
            ("first", json!([[]]), json!(null)),
            ("last", json!([[1, 2]]), json!(2)),
            ("rest", json!([[1, 2, 3]]), json!([2, 3])),
            ("initial", json!([[1, 2, 3]]), json!([1, 2])),
            ("rest", json!([[]]), json!([])),
            ("append", json!([[1], 2]), json!([1, 2])),
            ("prepend", json!([[1], 0]), json!([0, 1])),
            ("concat", json!([[1], [2, 3], []]), json!([1, 2, 3])),
            ("reverse", json!([[1, 2]]), json!([2, 1])),
            ("uniq", json!([[1, 1, "1", 2]]), json!([1, "1", 2])),
            ("without", json!([[1, 2, 3], 1, 3]), json!([2])),
            ("has", json!([4, [1, 4]]), json!(true)),
            ("compact", json!([[1, "", 0, null, "a"]]), json!([1, "a"])),
            ("slice", json!([[1, 2, 3, 4], 1, 3]), json!([2, 3])),
            ("slice", json!([[1, 2, 3], 1]), json!([2, 3])),
            ("chunk", json!([2, [1, 2, 3]]), json!([[1, 2], [3]])),
            ("until", json!([3]), json!([0, 1, 2])),
            ("until", json!([-2]), json!([0, -1])),
            ("untilStep", json!([3, 7, 2]), json!([3, 5])),
            ("seq", json!([3]), json!("1 2 3")),
            ("seq", json!([2, -1]), json!("2 1 0 -1")),
            ("seq", json!([0, 2, 5]), json!("0 2 4")),
            ("seq", json!([0, -2, 5]), json!("")),
        ]);
    }
}
