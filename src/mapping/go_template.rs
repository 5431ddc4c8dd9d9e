//! The ruleset `go-template`: a file in the language of Go's text/template that writes an image's
//! destinations, one a line. What it calls, the templates it includes and the fields it names must exist
//! when it is loaded. A missing annotation is "", where Go would write `<no value>`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use gotmpl::parse::{BranchNode, Expr, ListNode, Node, PipeNode};
use gotmpl::{FuncMap, Template as Parsed, TemplateError, Value as GoValue};
use serde_json::{Map, Number, Value};

use super::destination::Candidate;
use super::function::{self, MAX_TEXT};
use super::template_data as data;
use super::{Error, Problem, go_blocks, table};
use crate::image::{Descriptor, Digest};

/// Functions of the language itself.
const BUILT_IN: [&str; 18] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print", "printf",
    "println", "urlquery",
];
/// Rounds of all `range` together, for one image.
const MAX_ROUNDS: u64 = 100_000;
/// Levels of values within one another.
const MAX_DEPTH: usize = 100;

/// A template that is loaded and checked.
pub struct GoTemplate {
    path: String,
    template: Parsed,
}

impl GoTemplate {
    /// Reads, parses and checks the file.
    pub fn load(path: &str) -> Result<Self, Error> {
        Self::parse(&table::read(path)?, path)
    }

    /// Parses and checks the text of the file `path`.
    fn parse(text: &str, path: &str) -> Result<Self, Error> {
        let refuse = |problems: Vec<Problem>| Error::File { path: path.into(), problems };
        data::check_nesting(text).map_err(|(line, reason)| refuse(vec![Problem { line: Some(line), reason }]))?;
        let unclosed = go_blocks::check(text);
        if !unclosed.is_empty() {
            return Err(refuse(unclosed));
        }
        // Go names a template by the last part of its file's path.
        let name = path.rsplit('/').next().unwrap_or(path);
        let template =
            Parsed::new(name).max_range_iters(MAX_ROUNDS).funcs(functions()).parse(text).map_err(|e| match e {
                TemplateError::Parse { line, message, .. } | TemplateError::Lex { line, message, .. } => {
                    refuse(vec![Problem { line: Some(line), reason: message }])
                }
                other => refuse(vec![Problem { line: None, reason: other.to_string() }]),
            })?;
        let problems = Check::new(&template).run(name);
        if problems.is_empty() { Ok(GoTemplate { path: path.into(), template }) } else { Err(refuse(problems)) }
    }

    /// What the template writes for the image.
    pub fn apply(&self, image: &Descriptor) -> Result<Vec<Candidate>, Error> {
        let mut output = Bounded(String::new());
        let data = to_go(&Value::Object(data::go_names(image)));
        self.template.execute_fmt(&mut output, &data).map_err(|e| {
            let reason = match e {
                TemplateError::Write => format!("it writes more than {MAX_TEXT} bytes"),
                TemplateError::Exec(reason) => reason,
                other => other.to_string(),
            };
            data::failed(&self.path, None, image, reason)
        })?;
        Ok(data::candidates(&self.path, &output.0))
    }
}

/// What a template writes, up to a limit.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The engine writes a missing value in one piece.
        if text == "<no value>" {
            return Ok(());
        }
        if self.0.len() + text.len() > MAX_TEXT {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// The functions for the engine; `index` of a missing key is "", as in Go with maps of texts.
fn functions() -> FuncMap {
    let mut map = FuncMap::new();
    for function in function::all() {
        let call = move |arguments: &[GoValue]| {
            let arguments: Result<Vec<Value>, String> = arguments.iter().map(|v| from_go(v, 0)).collect();
            let value = arguments.and_then(|arguments| function.call(&arguments)).map_err(TemplateError::Exec)?;
            Ok(to_go(&value))
        };
        map.insert(function.name.into(), Arc::new(call));
    }
    let index = |arguments: &[GoValue]| {
        let [whole, keys @ ..] = arguments else {
            return Err(TemplateError::Exec("index takes a value and its keys".into()));
        };
        let mut at = whole.clone();
        for key in keys {
            at = match (&at, key) {
                (GoValue::Map(items), GoValue::String(key)) => {
                    items.get(key).cloned().unwrap_or_else(|| GoValue::String("".into()))
                }
                _ => at.index(key)?,
            };
        }
        Ok(at)
    };
    map.insert("index".into(), Arc::new(index));
    map
}

fn to_go(value: &Value) -> GoValue {
    match value {
        Value::Null => GoValue::Nil,
        Value::Bool(b) => GoValue::Bool(*b),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => GoValue::Int(n),
            (None, Some(x)) => GoValue::Float(x),
            (None, None) => GoValue::Nil,
        },
        Value::String(text) => GoValue::String(text.as_str().into()),
        Value::Array(items) => GoValue::List(items.iter().map(to_go).collect()),
        Value::Object(items) => {
            GoValue::Map(Arc::new(items.iter().map(|(k, v)| (k.as_str().into(), to_go(v))).collect()))
        }
    }
}

fn from_go(value: &GoValue, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("a value with more than {MAX_DEPTH} levels"));
    }
    Ok(match value {
        GoValue::Nil => Value::Null,
        GoValue::Bool(b) => (*b).into(),
        GoValue::Int(n) => (*n).into(),
        GoValue::Uint(n) => (*n).into(),
        GoValue::Float(x) => Number::from_f64(*x).map_or(Value::Null, Value::Number),
        GoValue::String(text) => (&**text).into(),
        GoValue::List(items) => items.iter().map(|v| from_go(v, depth + 1)).collect::<Result<Vec<_>, _>>()?.into(),
        GoValue::Map(items) => {
            let mut map = Map::new();
            for (key, value) in items.iter() {
                map.insert(key.to_string(), from_go(value, depth + 1)?);
            }
            map.into()
        }
        GoValue::Function(_) => return Err("a function is not a value here".into()),
    })
}

/// The walk over a parsed template that finds what would only fail when run.
struct Check<'a> {
    template: &'a Parsed,
    functions: BTreeSet<&'static str>,
    fields: Map<String, Value>,
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    fn new(template: &'a Parsed) -> Self {
        let functions = function::all().map(|f| f.name).chain(BUILT_IN).collect();
        let fields = data::go_names(&Descriptor::new("", Digest::sha256(b""), 0));
        Check { template, functions, fields, problems: Vec::new() }
    }

    fn run(mut self, main: &str) -> Vec<Problem> {
        for name in self.template.templates() {
            if let Some(body) = self.template.lookup(name) {
                self.list(body, name == main);
            }
        }
        self.problems.sort_by_key(|p| p.line);
        self.problems
    }

    /// `root`: whether dot is the image.
    fn list(&mut self, list: &ListNode, root: bool) {
        for node in &list.nodes {
            match node {
                Node::List(list) => self.list(list, root),
                Node::Action(action) => self.pipe(&action.pipe, root),
                Node::If(branch) => self.branch(branch, root, root),
                Node::Range(branch) | Node::With(branch) => self.branch(branch, root, false),
                Node::Template(call) => {
                    if let Some(pipe) = &call.pipe {
                        self.pipe(pipe, root);
                    }
                    if self.template.lookup(&call.name).is_none() {
                        self.problem(call.pos.line, format!("there is no template {:?}", call.name.as_str()));
                    }
                }
                Node::Define(define) => self.list(&define.body, false),
                Node::Text(_) | Node::Break(_) | Node::Continue(_) => {}
            }
        }
    }

    fn branch(&mut self, branch: &BranchNode, root: bool, inside: bool) {
        self.pipe(&branch.pipe, root);
        self.list(&branch.body, inside);
        if let Some(other) = &branch.else_body {
            self.list(other, root);
        }
    }

    fn pipe(&mut self, pipe: &PipeNode, root: bool) {
        for expression in pipe.commands.iter().flat_map(|c| &c.args) {
            self.expression(expression, root);
        }
    }

    fn expression(&mut self, expression: &Expr, root: bool) {
        match expression {
            Expr::Identifier(pos, name) if !self.functions.contains(name.as_str()) => {
                self.problem(pos.line, format!("function {:?} not defined", name.as_str()));
            }
            Expr::Field(pos, names) if root => {
                if let Some(name) = names.first().filter(|n| !self.fields.contains_key(n.as_str())) {
                    self.problem(pos.line, format!("an image has no field {:?}", name.as_str()));
                }
            }
            Expr::Pipe(_, pipe) => self.pipe(pipe, root),
            Expr::Chain(_, inner, _) => self.expression(inner, root),
            _ => {}
        }
    }

    fn problem(&mut self, line: usize, reason: String) {
        self.problems.push(Problem { line: Some(line), reason });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::annotation;

    fn load(text: &str) -> Result<GoTemplate, String> {
        GoTemplate::parse(text, "t.tmpl").map_err(|e| e.to_string())
    }

    fn image() -> Descriptor {
        let mut image = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"image"), 5);
        image.annotations.insert(annotation::SOURCE.into(), "low.example/team/app:v1".into());
        image
    }

    fn written(text: &str) -> Result<Vec<String>, String> {
        let template = load(text)?;
        Ok(template.apply(&image()).map_err(|e| e.to_string())?.into_iter().map(|c| c.text).collect())
    }

    #[test]
    fn speaks_the_language() {
        let text = "{{- /* a comment */ -}}\n{{ $s := index .Annotations \"vnd.act3-ace.manifest.source\" -}}\n\
                    {{ define \"to\" }}h.example/{{ . }}{{ end -}}\n{{ template \"to\" (Package $s) }}\r\n\n\
                    {{ if and (hasPrefix \"low.\" $s) (eq (tag $s) \"v1\") }}h.example/{{ Repository $s | replace \"/\" \"-\" }}{{ end }}\n\
                    {{ range $i, $p := splitList \"/\" (repository $s) }}{{ $i }}{{ $p }} {{ end }}\n\
                    {{ with .Platform }}{{ .OS }}{{ else }}no platform{{ end }}\n{{ .Size }} {{ len .URLs }} {{ printf \"%s-%d\" \"a\" 3 }}\n\
                    {{ $d := dict \"a\" 1 }}{{ $d = set $d \"b\" 2 }}{{ keys $d | join \",\" }} {{ (semver \"v1.2.3\").Minor }}\n";
        assert_eq!(
            written(text).unwrap(),
            ["h.example/team/app:v1", "h.example/team-app", "0team 1app", "no platform", "5 0 a-3", "a,b 2"]
        );
    }

    #[test]
    fn what_is_missing_is_nothing() {
        let text = "[{{ index .Annotations \"none\" }}{{ .Annotations.none }}{{ .ArtifactType }}]{{ .Annotations.none | default \"d\" }}";
        assert_eq!(written(text).unwrap(), ["[]d"]);
        assert!(written("{{ if .Annotations.none }}x{{ end }}\n  \n").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_found_when_it_is_loaded() {
        for (text, expected) in [
            ("ok\n{{ if }}", "t.tmpl:2: "),
            ("\n{{ if .Size }}", "t.tmpl:2: {{if}} has no {{end}}"),
            ("a\n{{ end }} b", "t.tmpl:2: unexpected {{end}}"),
            ("{{ if .Size }}{{ end", "t.tmpl:1: "),
            ("{{ .Size ", "t.tmpl:1: "),
            ("ok\n{{ nofunc .Size }}", "t.tmpl:2: function \"nofunc\" not defined"),
            ("{{ if true }}\n{{ trim (.MediaType | now) }}{{ end }}", "t.tmpl:2: function \"now\" not defined"),
            ("{{ define \"a\" }}\n{{ env \"HOME\" }}{{ end }}", "t.tmpl:2: function \"env\" not defined"),
            ("{{ template \"none\" }}", "t.tmpl:1: there is no template \"none\""),
            ("{{ .MediaTyp }}", "t.tmpl:1: an image has no field \"MediaTyp\""),
        ] {
            let error = load(text).map(|_| ()).expect_err(text);
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert_eq!(load("{{ nope1 }}\n{{ nope2 }}").map(|_| ()).unwrap_err().lines().count(), 2);
        assert!(load(&format!("{{{{ {}1{} }}}}", "(".repeat(100), ")".repeat(100))).is_err());
    }

    #[test]
    fn a_failure_names_the_image_and_nothing_runs_for_ever() {
        let error = written("{{ Tag \"busybox\" }}").unwrap_err();
        assert!(error.contains(": for low.example/team/app:v1: Tag: "), "{error}");
        assert!(written("{{ fail \"no place for it\" }}").unwrap_err().contains("no place for it"));
        assert!(written("{{ define \"a\" }}{{ template \"a\" . }}{{ end }}{{ template \"a\" . }}").is_err());
        assert!(written("{{ range until 10000 }}{{ range until 10000 }}{{ end }}{{ end }}").is_err());
        let error = written("{{ range until 200 }}{{ repeat 10000 \"x\" }}{{ end }}").unwrap_err();
        assert!(error.contains("writes more than 1048576 bytes"), "{error}");
    }

    proptest! {
        /// Whatever a file holds, it loads and runs, or there is an error.
        #[test]
        fn never_panics(text in "(\\{\\{[-#/ ]?|[- ]?\\}\\}| |\\(|\\)|\"|`|'|\\||:=|\\$x|\\.|,|=|é|1|source|\\.Size|if |else|end|range |with |define |template |trim |each |/if|/each|\n){0,24}") {
            if let Ok(template) = load(&text) {
                let _ = template.apply(&image());
            }
        }
    }
}
