//! The samples in `tests/data`, and the ways to write them differently. Each test that uses them uses a part of this.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;

use serde::Deserialize;

/// The User-Agent of a browser.
pub const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0";

pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("# "))
}

/// `POST /path` or `/path`.
pub fn method_and_url(line: &str) -> (&str, &str) {
    match line.split_once(' ') {
        Some((method, url)) if method.bytes().all(|byte| byte.is_ascii_uppercase()) => (method, url),
        _ => ("GET", line),
    }
}

/// A sample: a URL, `POST /url`, a table, or a log line for a rule over log lines.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Sample {
    Text(String),
    Table {
        url: String,
        user_agent: Option<String>,
        status: Option<u16>,
        referer: Option<String>,
        credentials: Option<bool>,
        /// Such as `Cookie: a=b`.
        #[serde(default)]
        headers: Vec<String>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    pub strike: Vec<Sample>,
    pub spare: Vec<Sample>,
}

pub fn samples() -> BTreeMap<String, Samples> {
    toml::from_str(include_str!("../data/probes.toml")).unwrap()
}

/// `url` with those letters and digits of its path percent-encoded that `which` selects. Encoded ones stay as they are.
pub fn encoded(url: &str, which: impl Fn(usize) -> bool) -> String {
    let end = url.find('?').unwrap_or(url.len());
    let (path, rest) = url.split_at(end);
    let mut out = String::new();
    let mut escape = 0_u8;
    for (at, byte) in path.bytes().enumerate() {
        if byte == b'%' {
            escape = 3;
        }
        if escape == 0 && byte.is_ascii_alphanumeric() && which(at) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(byte));
        }
        escape = escape.saturating_sub(1);
    }
    out + rest
}

/// Rewrites a path; `None` if it cannot be rewritten this way.
pub type Rewrite = fn(&str) -> Option<String>;

/// Ways to write a path that a server reads as the plain one.
pub const DISGUISES: [(&str, Rewrite); 16] = [
    ("a dot segment before", |path| Some(format!("/.{path}"))),
    ("an encoded dot segment before", |path| Some(format!("/%2e{path}"))),
    ("up and down", |path| Some(format!("/a/..{path}"))),
    ("doubled slashes", |path| Some(format!("/{}", path.replace('/', "//")))),
    ("an empty segment with a parameter", |path| Some(format!("/;a{path}"))),
    ("a parameter at the end", |path| Some(format!("{path};p=1"))),
    ("an encoded parameter at the end", |path| Some(format!("{path}%3Bp=1"))),
    ("a slash at the end", |path| Some(format!("{path}/"))),
    ("a dot at the end", |path| Some(format!("{path}."))),
    ("a dot segment inside", |path| Some(format!("/{}", path.get(1..)?.replace('/', "/./")))),
    ("backslashes", |path| Some(format!("/{}", path.get(1..)?.replace('/', "\\")))),
    ("up and down by backslashes", |path| Some(format!("/a\\..\\{}", path.get(1..)?))),
    ("up and down by encoded backslashes", |path| Some(format!("/a%5c%2e.{path}"))),
    ("letters encoded twice", |path| Some(encoded(path, |_| true).replace('%', "%25"))),
    ("up and down encoded twice", |path| Some(format!("/a/%252e%252e{path}"))),
    ("userinfo", |path| Some(format!("http://user:password@site.example{path}"))),
];

/// `path` with every other letter in the other case; `None` if the path contains an escape.
pub fn mixed_case(path: &str) -> Option<String> {
    let swapped = |(at, letter): (usize, char)| match letter {
        _ if at % 2 == 0 => letter,
        'a'..='z' => letter.to_ascii_uppercase(),
        _ => letter.to_ascii_lowercase(),
    };
    (!path.contains('%')).then(|| path.chars().enumerate().map(swapped).collect())
}

/// Splits a sample into method, path and query; `None` if its URL is not a path.
pub fn split_sample(text: &str) -> Option<(&str, &str, &str)> {
    let (method, url) = method_and_url(text);
    let end = url.find('?').unwrap_or(url.len());
    url.starts_with('/').then(|| (method, &url[..end], &url[end..]))
}

/// Hands each sample to `check` as method, URL and User-Agent, as it is and in every disguise, and each attack by a query.
pub fn each_in_every_disguise(mut check: impl FnMut(&str, &str, &str)) {
    let encodings: [(&str, Rewrite); 4] = [
        ("all", |path| Some(encoded(path, |_| true))),
        ("odd", |path| Some(encoded(path, |at| at % 2 == 1))),
        ("first", |path| Some(encoded(path, |at| at < 3))),
        ("mixed case", mixed_case),
    ];
    for sample in samples().values().flat_map(|samples| samples.strike.iter().chain(&samples.spare)) {
        let (text, agent) = match sample {
            Sample::Text(text) => (text, BROWSER),
            Sample::Table { url, user_agent, .. } => (url, user_agent.as_deref().unwrap_or(BROWSER)),
        };
        let (method, url) = method_and_url(text);
        check(method, url, agent);
        let (path, query) = url.find('?').map_or((url, ""), |at| url.split_at(at));
        for (_, rewrite) in DISGUISES.iter().chain(&encodings).filter(|_| path.starts_with('/')) {
            if let Some(path) = rewrite(path) {
                check(method, &format!("{path}{query}"), agent);
            }
        }
    }
    for (_, query) in lines(include_str!("../data/queries-attack.tsv")).filter_map(|line| line.split_once('\t')) {
        check("GET", &format!("/page?{query}"), BROWSER);
        check("POST", &format!("/page?{}", encoded(&format!("/{query}"), |at| at % 2 == 1)), BROWSER);
    }
}
