//! The ruleset `template`: a Handlebars file that writes an image's destinations, one a line. Helpers
//! are the functions of [`super::function`]. Partials and decorators are refused, so that a template is
//! one file that ends; whatever it calls must exist when it is loaded.

use std::collections::BTreeSet;
use std::io::{self, Write};

use handlebars::template::{HelperTemplate, Parameter, TemplateElement};
use handlebars::{
    Context, Handlebars, Helper, HelperDef, Path, PathSeg, RenderContext, RenderError, RenderErrorReason, ScopedJson,
    Template as Parsed, no_escape,
};
use serde_json::Value;

use super::destination::Candidate;
use super::function::{self, Function, MAX_TEXT};
use super::template_data as data;
use super::{Error, Problem, table};
use crate::image::{Descriptor, Digest};

const NAME: &str = "template";
/// Helpers of the engine itself that are kept.
const BUILT_IN: [&str; 16] =
    ["if", "unless", "each", "with", "lookup", "raw", "eq", "ne", "gt", "gte", "lt", "lte", "and", "or", "not", "len"];
/// Helpers whose block sees other names.
const SCOPES: [&str; 2] = ["each", "with"];
/// Blocks within one another.
const MAX_DEPTH: usize = 64;

/// A template that is loaded and checked.
pub struct Template {
    path: String,
    engine: Handlebars<'static>,
}

impl Template {
    /// Reads, parses and checks the file.
    pub fn load(path: &str) -> Result<Self, Error> {
        Self::parse(&table::read(path)?, path)
    }

    /// Parses and checks the text of the file `path`.
    fn parse(text: &str, path: &str) -> Result<Self, Error> {
        let refuse = |problems: Vec<Problem>| Error::File { path: path.into(), problems };
        data::check_nesting(text).map_err(|(line, reason)| refuse(vec![Problem { line: Some(line), reason }]))?;
        let parsed = Parsed::compile(text).map_err(|e| {
            let reason = e.reason().to_string();
            refuse(vec![Problem { line: e.pos().map(|(line, _)| line), reason }])
        })?;
        let mut check = Check::default();
        check.template(&parsed, true, 0);
        if !check.problems.is_empty() {
            return Err(refuse(check.problems));
        }
        let mut engine = Handlebars::new();
        engine.register_escape_fn(no_escape);
        engine.unregister_helper("log");
        for function in function::all() {
            engine.register_helper(function.name, Box::new(AsHelper(function)));
        }
        engine.register_template(NAME, parsed);
        Ok(Template { path: path.into(), engine })
    }

    /// What the template writes for the image.
    pub fn apply(&self, image: &Descriptor) -> Result<Vec<Candidate>, Error> {
        let failed = |e: RenderError| data::failed(&self.path, e.line_no, image, reason(&e));
        let names = data::all_names(image).map_err(|reason| data::failed(&self.path, None, image, reason))?;
        let context = Context::wraps(Value::Object(names)).map_err(failed)?;
        let mut output = Bounded(Vec::new());
        self.engine.render_with_context_to_write(NAME, &context, &mut output).map_err(failed)?;
        Ok(data::candidates(&self.path, &String::from_utf8_lossy(&output.0)))
    }
}

fn reason(error: &RenderError) -> String {
    match error.reason() {
        RenderErrorReason::IOError(e) => e.to_string(),
        reason => reason.to_string(),
    }
}

/// What a template writes, up to a limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(io::Error::other(format!("it writes more than {MAX_TEXT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct AsHelper(&'static Function);

impl HelperDef for AsHelper {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let arguments: Vec<Value> = helper.params().iter().map(|p| p.value().clone()).collect();
        // `{{tag}}` is the tag of the source, `{{tag x}}` that of x.
        if arguments.is_empty()
            && let Some(value) = context.data().get(self.0.name)
        {
            return Ok(ScopedJson::Derived(value.clone()));
        }
        match self.0.call(&arguments) {
            Ok(value) => Ok(ScopedJson::Derived(value)),
            Err(reason) => Err(RenderErrorReason::Other(reason).into()),
        }
    }
}

/// The walk over a parsed template that finds what would only fail, or silently be nothing, when run.
struct Check {
    known: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Default for Check {
    fn default() -> Self {
        let sample = Descriptor::new("", Digest::sha256(b""), 0);
        let known = data::all_names(&sample).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        Check { known, problems: Vec::new() }
    }
}

impl Check {
    /// `root`: whether names are those of the image, not of a block's own scope.
    fn template(&mut self, template: &Parsed, root: bool, depth: usize) {
        for (i, element) in template.elements.iter().enumerate() {
            let line = template.mapping.get(i).map(|m| m.0);
            match element {
                TemplateElement::RawString(_) | TemplateElement::Comment(_) => {}
                TemplateElement::Expression(call) | TemplateElement::HtmlExpression(call) => {
                    self.call(call, root, line, false)
                }
                TemplateElement::HelperBlock(call) => {
                    self.call(call, root, line, true);
                    if depth >= MAX_DEPTH {
                        self.problem(line, format!("more than {MAX_DEPTH} blocks within one another"));
                        continue;
                    }
                    let scope = call.name.as_name().is_some_and(|name| SCOPES.contains(&name));
                    for (inner, root) in [(&call.template, root && !scope), (&call.inverse, root)] {
                        if let Some(inner) = inner {
                            self.template(inner, root, depth + 1);
                        }
                    }
                }
                _ => self.problem(line, "partials and decorators are not supported in mapping templates".into()),
            }
        }
    }

    fn call(&mut self, call: &HelperTemplate, root: bool, line: Option<usize>, block: bool) {
        let name = call.name.as_name().unwrap_or_default();
        let helper = BUILT_IN.contains(&name) || function::all().any(|f| f.name == name);
        let only_name = !block && call.params.is_empty() && call.hash.is_empty();
        if only_name && !helper {
            return self.parameter(&call.name, root, line);
        }
        if !helper {
            self.problem(line, format!("there is no helper {name:?}"));
        }
        if !call.hash.is_empty() {
            self.problem(line, format!("{name} takes no arguments of the form name=value"));
        }
        for parameter in &call.params {
            self.parameter(parameter, root, line);
        }
    }

    fn parameter(&mut self, parameter: &Parameter, root: bool, line: Option<usize>) {
        match parameter {
            Parameter::Subexpression(inner) => {
                if let TemplateElement::Expression(call) = inner.as_element() {
                    self.call(call, root, line, true);
                }
            }
            Parameter::Path(Path::Relative((segments, _))) => {
                if let (true, Some(PathSeg::Named(name))) = (root, segments.first())
                    && !self.known.contains(name)
                {
                    let name = name.clone();
                    self.problem(line, format!("an image has no {name:?}"));
                }
            }
            Parameter::Name(name) if root && !self.known.contains(name) => {
                self.problem(line, format!("an image has no {name:?}"));
            }
            _ => {}
        }
    }

    fn problem(&mut self, line: Option<usize>, reason: String) {
        self.problems.push(Problem { line, reason });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::annotation;

    fn load(text: &str) -> Result<Template, String> {
        Template::parse(text, "t.hbs").map_err(|e| e.to_string())
    }

    fn image() -> Descriptor {
        let mut image = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"image"), 5);
        image.platform = Some("linux/arm64/v8".parse().unwrap());
        image.annotations.insert(annotation::SOURCE.into(), "low.example:5000/team/app:v1".into());
        image.annotations.insert(annotation::LABELS.into(), r#"{"component":"core"}"#.into());
        image
    }

    fn written(text: &str) -> Result<Vec<String>, String> {
        let template = load(text)?;
        Ok(template.apply(&image()).map_err(|e| e.to_string())?.into_iter().map(|c| c.text).collect())
    }

    #[test]
    fn sees_the_image() {
        let text = "{{! names }}\n{{source}} \n\n{{registry}} {{repository}} {{tag}} {{package}}\r\n{{mediaType}} {{MediaType}}\n\
                    {{digest}} {{size}}\n{{platform.os}}/{{Platform.Architecture}}/{{platform.variant}}\n{{labels.component}}\n\
                    {{lookup annotations \"vnd.act3-ace.manifest.source\"}}\n{{annotations.[vnd.act3-ace.manifest.source]}}\n\
                    [{{lookup annotations \"none\"}}{{annotations.none}}]\n";
        let source = "low.example:5000/team/app:v1";
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        assert_eq!(
            written(text).unwrap(),
            [
                source,
                "low.example:5000 team/app v1 team/app:v1",
                &format!("{media_type} {media_type}"),
                &format!("{} 5", Digest::sha256(b"image")),
                "linux/arm64/v8",
                "core",
                source,
                source,
                "[]"
            ]
        );
    }

    #[test]
    fn helpers_nest() {
        let text = "{{#if (hasPrefix \"low.\" source)}}h.example/{{replace \"/\" \"-\" (repository source)}}:{{default \"none\" (Tag source)}}{{/if}}\n\
                    {{#each (splitList \"/\" repository)}}{{@index}}{{this}} {{/each}}\n{{#with platform}}{{os}}{{/with}}\n\
                    {{add 1 2}} {{floor 2.5}} {{trim \" & = \"}}\n";
        assert_eq!(written(text).unwrap(), ["h.example/team-app:v1", "0team 1app", "linux", "3 2 & ="]);
        assert!(written("  \n{{! nothing }}\n").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_found_when_it_is_loaded() {
        for (text, expected) in [
            ("ok\n{{#if source}}\n", "t.hbs:"),
            ("ok\n{{nohelper source}}", "t.hbs:2: there is no helper \"nohelper\""),
            ("{{trim (nohelper source)}}", "t.hbs:1: there is no helper \"nohelper\""),
            ("{{#if source}}\n{{sorce}}{{/if}}", "t.hbs:2: an image has no \"sorce\""),
            ("{{trim sorce}}", "t.hbs:1: an image has no \"sorce\""),
            ("{{#each urls}}{{#if (nope 1)}}{{/if}}{{/each}}", "t.hbs:1: there is no helper \"nope\""),
            ("\n{{> other}}", "t.hbs:2: partials and decorators"),
            ("{{#*inline \"a\"}}{{/inline}}", "t.hbs:1: partials and decorators"),
            ("{{log source}}", "t.hbs:1: there is no helper \"log\""),
            ("{{trim source x=1}}", "t.hbs:1: trim takes no arguments of the form"),
        ] {
            let error = load(text).map(|_| ()).expect_err(text);
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let error = load("{{nope 1}}\n\n{{nope2 1}}").map(|_| ()).unwrap_err();
        assert_eq!(error.lines().count(), 2, "{error}");
        assert!(load(&format!("{{{{trim {}source{}}}}}", "(trim ".repeat(100), ")".repeat(100))).is_err());
    }

    #[test]
    fn a_failure_names_image_and_line() {
        let error = written("\n{{regexMatch \"(\" source}}").unwrap_err();
        assert!(error.contains(":2: for low.example:5000/team/app:v1: regexMatch: "), "{error}");
        assert!(written("{{fail \"no place for it\"}}").unwrap_err().contains("no place for it"));
        let mut odd = image();
        odd.annotations.insert(annotation::LABELS.into(), "core".into());
        let error = load("{{source}}").unwrap().apply(&odd).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("its labels are not labels"), "{error}");
        let error = written("{{#each (until 200)}}{{repeat 10000 \"x\"}}{{/each}}").unwrap_err();
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
