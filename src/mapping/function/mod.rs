//! The functions of mapping templates, written once over JSON values and registered in both engines
//! under the same names, with the semantics that the field's Go templates rely on (Masterminds sprig,
//! its hermetic part). None of them sees the environment, files, time, randomness or the network, and
//! none makes more than [`MAX_TEXT`] bytes or [`MAX_ITEMS`] items.

mod dicts;
mod encoding;
mod lists;
mod logic;
mod numbers;
mod paths;
pub mod references;
mod regexes;
mod strings;
mod versions;
mod words;

use std::borrow::Cow;

use serde_json::Value;

/// Bytes of a text that a function may make, and of what a template may write for one image.
pub const MAX_TEXT: usize = 1 << 20;
/// Items of a list that a function may make.
pub const MAX_ITEMS: usize = 10_000;

/// What a function returns: a value, or what is wrong with its arguments.
pub type Outcome = Result<Value, String>;

/// A function with the number of arguments it takes.
pub struct Function {
    pub name: &'static str,
    least: usize,
    most: usize,
    body: fn(&[Value]) -> Outcome,
}

/// For functions of any number of arguments.
const ANY: usize = usize::MAX;

const fn function(name: &'static str, least: usize, most: usize, body: fn(&[Value]) -> Outcome) -> Function {
    Function { name, least, most, body }
}

impl Function {
    /// Calls it. The body sees as many arguments as the function takes, never fewer.
    pub fn call(&self, arguments: &[Value]) -> Outcome {
        let got = arguments.len();
        if got < self.least || got > self.most {
            let takes = match self.most {
                ANY => format!("at least {}", self.least),
                most if most == self.least => most.to_string(),
                most => format!("{} to {most}", self.least),
            };
            return Err(format!("{} takes {takes} arguments, not {got}", self.name));
        }
        let value = (self.body)(arguments).map_err(|e| format!("{}: {e}", self.name))?;
        let too_much = match &value {
            Value::String(text) => text.len() > MAX_TEXT,
            Value::Array(items) => items.len() > MAX_ITEMS,
            Value::Object(items) => items.len() > MAX_ITEMS,
            _ => false,
        };
        if too_much { Err(format!("{}: its result is too large", self.name)) } else { Ok(value) }
    }
}

/// Every function.
pub fn all() -> impl Iterator<Item = &'static Function> {
    [
        strings::TABLE,
        words::TABLE,
        regexes::TABLE,
        lists::TABLE,
        dicts::TABLE,
        logic::TABLE,
        numbers::TABLE,
        versions::TABLE,
        encoding::TABLE,
        paths::TABLE,
        references::TABLE,
    ]
    .into_iter()
    .flatten()
}

/// A value as text: nothing for null, numbers as people write them, lists and maps as JSON.
pub fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        Value::Null => "".into(),
        Value::Number(n) => match n.as_f64() {
            Some(x) if n.is_f64() && x.fract() == 0.0 && x.abs() < 1e15 => format!("{x:.0}").into(),
            _ => n.to_string().into(),
        },
        other => other.to_string().into(),
    }
}

/// Whether a value counts as nothing: null, false, zero, and empty texts, lists and maps.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    let number = match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().filter(|x| x.abs() < 9e18).map(|x| x as i64)),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(b) => Some(i64::from(*b)),
        _ => None,
    };
    number.ok_or_else(|| format!("{} is not a whole number", shown(value)))
}

fn float(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|x| x.is_finite()).ok_or_else(|| format!("{} is not a number", shown(value)))
}

/// A count that becomes a size: between 0 and `most`.
fn count(value: &Value, most: usize) -> Result<usize, String> {
    usize::try_from(integer(value)?)
        .ok()
        .filter(|n| *n <= most)
        .ok_or_else(|| format!("{} is not between 0 and {most}", shown(value)))
}

/// A list; null is an empty one.
fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(&[]),
        other => Err(format!("{} is not a list", shown(other))),
    }
}

fn dict(value: &Value) -> Result<&serde_json::Map<String, Value>, String> {
    match value {
        Value::Object(items) => Ok(items),
        other => Err(format!("{} is not a dict", shown(other))),
    }
}

fn shown(value: &Value) -> String {
    crate::store::error::printable(&value.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// The value of a call, for the tests of all tables.
    pub fn call(name: &str, arguments: Value) -> Outcome {
        let function = all().find(|f| f.name == name).unwrap_or_else(|| panic!("no function {name}"));
        function.call(arguments.as_array().unwrap())
    }

    /// Checks calls written as `(name, arguments, result)`.
    pub fn check(calls: &[(&str, Value, Value)]) {
        for (name, arguments, expected) in calls {
            assert_eq!(call(name, arguments.clone()).as_ref(), Ok(expected), "{name} {arguments}");
        }
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = all().map(|f| f.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn the_reference_names_every_function() {
        let reference = include_str!("../../../docs/mapping.md");
        let words: BTreeSet<&str> = reference.split(|c: char| !c.is_alphanumeric()).collect();
        let other_spelling = |name: &str| name.starts_with("mustRegex") || name.starts_with("os");
        let missing: Vec<&str> =
            all().map(|f| f.name).filter(|name| !words.contains(name) && !other_spelling(name)).collect();
        assert!(missing.is_empty(), "docs/mapping.md does not name {missing:?}");
    }

    #[test]
    fn arguments_are_counted_and_results_bounded() {
        assert_eq!(call("trim", json!([])).unwrap_err(), "trim takes 1 arguments, not 0");
        assert_eq!(call("join", json!([1, 2, 3])).unwrap_err(), "join takes 2 arguments, not 3");
        for (name, arguments) in [
            ("repeat", json!([2_000_000, "ab"])),
            ("until", json!([1_000_000_000])),
            ("replace", json!(["", "x".repeat(2000), "y".repeat(2000)])),
            ("indent", json!([1_000_000_000, "x"])),
            ("regexReplaceAll", json!(["", "y".repeat(2000), "x".repeat(2000)])),
            ("untilStep", json!([0, 5, 0])),
        ] {
            assert!(call(name, arguments).is_err(), "{name}");
        }
    }

    /// Whatever a template passes, a function answers or says what is wrong.
    #[test]
    fn no_function_panics() {
        let odd = [
            json!(null),
            json!(""),
            json!("é-ß x/../y@z:1"),
            json!(-3),
            json!(i64::MIN),
            json!(1.5),
            json!([]),
            json!(["a", 1, null]),
            json!({"a": {"b": 1}}),
            json!(true),
        ];
        for function in all() {
            for n in 0..4usize {
                for seed in 0..odd.len().pow(n as u32) {
                    let arguments: Vec<Value> =
                        (0..n).map(|i| odd[seed / odd.len().pow(i as u32) % odd.len()].clone()).collect();
                    let _ = function.call(&arguments);
                }
            }
        }
    }
}
