//! How a good sample is spoilt: its text, and what is inside of its base64.

use std::fmt;

use base64::{Engine, prelude::*};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::Value;

/// One good text.
#[derive(Clone)]
pub struct Sample {
    pub name: &'static str,
    pub text: Vec<u8>,
}

/// A sample and what was done to it. Prints as the bytes that came of it.
#[derive(Clone)]
pub struct Input {
    pub name: &'static str,
    pub text: Vec<u8>,
    done: Vec<Mutation>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.text[..self.text.len().min(LONGEST_SHOWN)];
        let (name, done, length) = (self.name, &self.done, self.text.len());
        let text = shown.escape_ascii();
        write!(f, "{name} after {done:?}, {length} bytes: b\"{text}\"")
    }
}

const LONGEST_SHOWN: usize = 8000;

/// Anything that can be made of these samples, or of nothing.
pub fn inputs(samples: &'static [Sample]) -> impl Strategy<Value = Input> {
    let inner = prop_oneof![2 => Just(Vec::new()), 3 => vec((any::<Index>(), mutations()), 1..3)];
    let outer = prop_oneof![1 => Just(Vec::new()), 3 => vec(mutations(), 1..4)];
    let spoilt =
        (any::<Index>(), any::<Index>(), inner, outer).prop_map(|(sample, other, inner, outer)| {
            let Sample { name, text } = sample.get(samples);
            let other = &other.get(samples).text;
            let mut text = text.clone();
            for (part, mutation) in &inner {
                text = within(&text, *part, |content| mutation.apply(content, other));
            }
            for mutation in &outer {
                text = mutation.apply(&text, other);
            }
            let inner = inner.into_iter().map(|(_, mutation)| mutation);
            let done = inner.chain(outer).collect();
            Input { name, text, done }
        });
    let made_up = vec(any::<u8>(), 0..200).prop_map(|text| Input {
        name: "made up",
        text,
        done: Vec::new(),
    });
    prop_oneof![15 => spoilt, 1 => made_up]
}

/// One thing that may happen to a text.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Replaces some bytes, which may be none or all that follow.
    Replace {
        at: Index,
        count: usize,
        with: New,
    },
    /// Puts one line in the place of another.
    Line(Index, Index),
    /// Another sample before or after the text. Within the text it could become the name of a key,
    /// which messages repeat, and be taken for a secret there.
    Join {
        before: bool,
    },
    LineEnds(&'static str),
    /// Two bytes for each, as in UTF-16.
    Wide,
    /// Puts a value in the place of another or removes it, if the text is JSON.
    Json(Index, Option<Value>),
}

/// What stands where bytes were replaced.
#[derive(Clone, Debug)]
pub enum New {
    Bytes(Vec<u8>),
    /// The same bytes, this many times.
    Repeated(usize),
}

pub fn mutations() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let count =
        prop_oneof![3 => Just(0_usize), 3 => Just(1), 2 => 2..80_usize, 1 => Just(usize::MAX)];
    let words = prop::sample::select(WORDS).prop_map(|word| New::Bytes(word.to_vec()));
    let nests: [&[u8]; 5] = [b"[", br#"{"keys":"#, b"\x30\x80", b"\xa0\x80", b"\x24\x80"];
    let nested = (prop::sample::select(nests.to_vec()), 1..20_000_usize);
    let new = prop_oneof![
        3 => words,
        4 => vec(any::<u8>(), 1..20).prop_map(New::Bytes),
        3 => Just(New::Bytes(Vec::new())),
        1 => (1..200_usize).prop_map(New::Repeated),
        1 => nested.prop_map(|(with, depth)| New::Bytes(with.repeat(depth))),
    ];
    let ends = prop::sample::select(&["", "\r", "\r\n", "\\n", " ", " \n", "\n\n"][..]);
    prop_oneof![
        16 => (at(), count, new).prop_map(|(at, count, with)| Mutation::Replace { at, count, with }),
        4 => (at(), at()).prop_map(|(one, other)| Mutation::Line(one, other)),
        1 => any::<bool>().prop_map(|before| Mutation::Join { before }),
        1 => ends.prop_map(Mutation::LineEnds),
        1 => Just(Mutation::Wide),
        10 => (at(), values()).prop_map(|(at, value)| Mutation::Json(at, value)),
    ]
}

/// JSON where another value is expected, or nothing.
fn values() -> impl Strategy<Value = Option<Value>> {
    let texts = [
        "",
        "x",
        "a\nb",
        "\u{202e}",
        "\0",
        "9999-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
        "2026-02-30T25:61:61Z",
        "current",
        "compromised",
        "RSA",
        "EC",
        "oct",
        "OKP",
        "P-384",
        "Ed25519",
        "none",
        "HS256",
        "RS256",
        "AQAB",
        "AAAA",
        "=",
        "é",
        "retire",
        "reissue",
    ];
    let values = [
        "null",
        "true",
        "-1",
        "0",
        "1e308",
        "-1e308",
        "18446744073709551615",
        "1.8e12",
        "253402300800",
        "9223372036854775807",
        "[]",
        "{}",
        "[[]]",
        r#"{"d":"x"}"#,
        r#"[null,1,"a:b"]"#,
    ];
    let parsed = |text| Some(serde_json::from_str(text).unwrap());
    let deep = (0..120).fold(Value::Null, |inside, _| Value::from(vec![inside]));
    prop_oneof![
        4 => prop::sample::select(values.to_vec()).prop_map(parsed),
        4 => prop::sample::select(texts.to_vec()).prop_map(|text| Some(text.into())),
        1 => any::<String>().prop_map(|text| Some(text.into())),
        1 => (1..100_000_usize).prop_map(|count| Some("A".repeat(count).into())),
        2 => Just(None),
        1 => Just(Some(deep)),
    ]
}

/// What is found in bad files.
const WORDS: &[&[u8]] = &[
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"\x80",
    b"\xff\xff\xff",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b"=",
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
    b"-----BEGIN PRIVATE KEY-----\n",
    b"-----END PRIVATE KEY-----\n",
    b"-----BEGIN ",
    b"-----",
    b"-----BEGIN EC PRIVATE KEY-----",
    b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
    b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    b"Proc-Type: 4,ENCRYPTED\n",
    b"Bearer ",
    b".",
    b"..",
    b",",
    b":",
    b"{",
    b"}",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"999999999999999999999999999",
    b"\"kid\":\"x\",",
    b"\"d\":\"AAAA\",",
    b"\"keys\":[],",
    b"\"exp\":1800000000000,",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x02\x01\x03",
    b"\x1b[2J",
    "\u{202e}".as_bytes(),
];

impl Mutation {
    pub fn apply(&self, text: &[u8], other: &[u8]) -> Vec<u8> {
        match self {
            Self::Replace { at, count, with } => {
                let start = at.index(text.len() + 1);
                let end = start.saturating_add(*count).min(text.len());
                let (before, rest) = text.split_at(start);
                let (replaced, after) = rest.split_at(end - start);
                let new = match with {
                    New::Bytes(bytes) => bytes.clone(),
                    New::Repeated(times) => replaced.repeat(*times),
                };
                [before, &new, after].concat()
            }
            Self::Line(one, other) => {
                // Lines of PEM, members of JSON, parts of a token, each with its end.
                let ends = |byte: &u8| matches!(byte, b'\n' | b'.' | b',');
                let mut lines: Vec<_> = text.split_inclusive(ends).collect();
                if !lines.is_empty() {
                    let count = lines.len();
                    lines[one.index(count)] = lines[other.index(count)];
                }
                lines.concat()
            }
            Self::Join { before: true } => [other, text].concat(),
            Self::Join { before: false } => [text, other].concat(),
            Self::LineEnds(end) => {
                let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
                lines.join(end.as_bytes())
            }
            Self::Wide => text.iter().flat_map(|byte| [*byte, 0]).collect(),
            Self::Json(at, value) => edit(text, at, value.as_ref()),
        }
    }
}

fn edit(text: &[u8], at: &Index, value: Option<&Value>) -> Vec<u8> {
    let Ok(mut document) = serde_json::from_slice::<Value>(text) else {
        return text.to_vec();
    };
    let mut places = Vec::new();
    pointers(&document, String::new(), &mut places);
    let place: &String = at.get(&places);
    if let Some(value) = value {
        *document.pointer_mut(place).unwrap() = value.clone();
    } else {
        let (parent, name) = place.rsplit_once('/').unwrap_or_default();
        match document.pointer_mut(parent) {
            Some(Value::Object(members)) => drop(members.remove(name)),
            Some(Value::Array(values)) => drop(values.pop()),
            _ => {}
        }
    }
    document.to_string().into_bytes()
}

fn pointers(value: &Value, here: String, all: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, inside) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(inside, format!("{here}/{name}"), all);
            }
        }
        Value::Array(values) => {
            for (index, inside) in values.iter().enumerate() {
                pointers(inside, format!("{here}/{index}"), all);
            }
        }
        _ => {}
    }
    all.push(here);
}

/// Changes what is inside of one block of PEM, or of one part of a token.
fn within(text: &[u8], part: Index, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else {
        return text.to_vec();
    };
    if text.contains("-----BEGIN ") {
        let mut blocks: Vec<_> = text
            .split_inclusive("-----END ")
            .map(str::to_owned)
            .collect();
        let block = part.index(blocks.len());
        if let Some((before, rest)) = blocks[block].split_once("-----\n")
            && let Some((content, after)) = rest.rsplit_once("-----END ")
            && let Ok(der) = BASE64_STANDARD.decode(content.replace('\n', ""))
        {
            let new = BASE64_STANDARD.encode(change(&der));
            let lines: Vec<_> = new.as_bytes().chunks(64).collect();
            let new = String::from_utf8(lines.join(&b'\n')).unwrap();
            blocks[block] = format!("{before}-----\n{new}\n-----END {after}");
        }
        return blocks.concat().into_bytes();
    }
    let mut parts: Vec<_> = text.split('.').map(str::to_owned).collect();
    let part = part.index(parts.len());
    if let Ok(content) = BASE64_URL_SAFE_NO_PAD.decode(&parts[part]) {
        parts[part] = BASE64_URL_SAFE_NO_PAD.encode(change(&content));
    }
    parts.join(".").into_bytes()
}
