//! Numbers: whole-number arithmetic, which says so instead of overflowing, rounding and conversion.

use serde_json::{Value, json};

use super::{ANY, Function, Outcome, float, function, integer, text};

pub static TABLE: &[Function] = &[
    function("add", 0, ANY, |a| fold(a, 0, i64::checked_add)),
    function("add1", 1, 1, |a| fold(a, 1, i64::checked_add)),
    function("sub", 2, 2, |a| fold(&a[1..], integer(&a[0])?, i64::checked_sub)),
    function("mul", 1, ANY, |a| fold(a, 1, i64::checked_mul)),
    function("div", 2, 2, |a| fold(&a[1..], integer(&a[0])?, i64::checked_div)),
    function("mod", 2, 2, |a| fold(&a[1..], integer(&a[0])?, i64::checked_rem)),
    function("max", 1, ANY, |a| fold(&a[1..], integer(&a[0])?, |x, y| Some(x.max(y)))),
    function("min", 1, ANY, |a| fold(&a[1..], integer(&a[0])?, |x, y| Some(x.min(y)))),
    function("floor", 1, 1, |a| Ok(number(float(&a[0])?.floor()))),
    function("ceil", 1, 1, |a| Ok(number(float(&a[0])?.ceil()))),
    function("round", 2, 2, |a| {
        let scale = 10f64.powi(integer(&a[1])?.clamp(-15, 15) as i32);
        Ok(number((float(&a[0])? * scale).round() / scale))
    }),
    function("int", 1, 1, |a| Ok(integer(&a[0]).unwrap_or(0).into())),
    function("int64", 1, 1, |a| Ok(integer(&a[0]).unwrap_or(0).into())),
    function("atoi", 1, 1, |a| Ok(text(&a[0]).parse::<i64>().unwrap_or(0).into())),
    function("float64", 1, 1, |a| Ok(number(float(&a[0]).unwrap_or(0.0)))),
    function("toDecimal", 1, 1, |a| Ok(i64::from_str_radix(&text(&a[0]), 8).unwrap_or(0).into())),
];

fn fold(values: &[Value], start: i64, step: fn(i64, i64) -> Option<i64>) -> Outcome {
    let mut total = start;
    for value in values {
        total = step(total, integer(value)?).ok_or("the result is not a whole number of 64 bits")?;
    }
    Ok(total.into())
}

/// A number as a whole one where it is one, so that it prints as one.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{call, check};

    #[test]
    fn numbers() {
        check(&[
            ("add", json!([1, 2, "3"]), json!(6)),
            ("add1", json!([1]), json!(2)),
            ("sub", json!([5, 3]), json!(2)),
            ("mul", json!([2, 3, 4]), json!(24)),
            ("div", json!([7, 2]), json!(3)),
            ("mod", json!([7, 2]), json!(1)),
            ("max", json!([1, 5, 3]), json!(5)),
            ("min", json!([1, 5, 3]), json!(1)),
            ("floor", json!([1.9]), json!(1)),
            ("ceil", json!(["1.1"]), json!(2)),
            ("round", json!([123.5555, 3]), json!(123.556)),
            ("int", json!(["12"]), json!(12)),
            ("int", json!(["x"]), json!(0)),
            ("int64", json!([1.9]), json!(1)),
            ("atoi", json!(["7"]), json!(7)),
            ("float64", json!(["1.5"]), json!(1.5)),
            ("toDecimal", json!(["777"]), json!(511)),
        ]);
        for (name, arguments) in [("div", json!([1, 0])), ("add", json!([i64::MAX, 1])), ("mod", json!([i64::MIN, -1]))]
        {
            assert!(call(name, arguments).is_err(), "{name}");
        }
    }
}
