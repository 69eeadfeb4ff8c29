//! How a good sample is spoilt: its text, and what is inside of its base64.

use std::{fmt, ops::Range};

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
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index, usize),
    End(Index),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize, usize),
    SwapHalves(Index),
    SwapLines(Index, Index),
    DropLine(Index),
    RepeatLine(Index),
    Join {
        before: bool,
    },
    LineEnds(&'static str),
    Wide,
    Nest {
        at: Index,
        with: &'static [u8],
        depth: usize,
    },
    /// Puts a value in place of another, if the text is JSON.
    Json(Index, Odd),
}

/// A JSON value that nobody expects.
#[derive(Clone, Debug)]
pub enum Odd {
    Value(Value),
    Text(String),
    CopyOf(Index),
    Gone,
    Deep,
}

pub fn mutations() -> impl Strategy<Value = Mutation> {
    use Mutation::*;
    let at = any::<Index>;
    let words = prop::sample::select(WORDS).prop_map(<[u8]>::to_vec);
    let nests: [&[u8]; 5] = [b"[", br#"{"keys":"#, b"\x30\x80", b"\xa0\x80", b"\x24\x80"];
    prop_oneof![
        3 => (at(), 0..8_u8).prop_map(|(at, bit)| Flip(at, bit)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Set(at, byte)),
        2 => (at(), 1..60_usize).prop_map(|(at, count)| Cut(at, count)),
        1 => at().prop_map(End),
        3 => (at(), words).prop_map(|(at, text)| Insert(at, text)),
        1 => (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, text)| Insert(at, text)),
        1 => (at(), 1..80_usize, 1..200_usize).prop_map(|(at, count, times)| Repeat(at, count, times)),
        1 => at().prop_map(SwapHalves),
        2 => (at(), at()).prop_map(|(one, other)| SwapLines(one, other)),
        1 => at().prop_map(DropLine),
        1 => at().prop_map(RepeatLine),
        1 => any::<bool>().prop_map(|before| Join { before }),
        1 => prop::sample::select(&["", "\r", "\r\n", "\\n", " ", " \n", "\n\n"][..]).prop_map(LineEnds),
        1 => Just(Wide),
        1 => (at(), prop::sample::select(nests.to_vec()), 1..20_000_usize)
            .prop_map(|(at, with, depth)| Nest { at, with, depth }),
        10 => (at(), odd()).prop_map(|(at, odd)| Json(at, odd)),
    ]
}

fn odd() -> impl Strategy<Value = Odd> {
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
    prop_oneof![
        4 => prop::sample::select(values.to_vec())
            .prop_map(|text| Odd::Value(serde_json::from_str(text).unwrap())),
        4 => prop::sample::select(texts.to_vec()).prop_map(|text| Odd::Text(text.to_owned())),
        1 => any::<String>().prop_map(Odd::Text),
        1 => (1..100_000_usize).prop_map(|count| Odd::Text("A".repeat(count))),
        2 => any::<Index>().prop_map(Odd::CopyOf),
        2 => Just(Odd::Gone),
        1 => Just(Odd::Deep),
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
        let mut text = text.to_vec();
        let place = |at: &Index| at.index(text.len() + 1);
        match self {
            Self::Flip(..) | Self::Set(..) if text.is_empty() => {}
            Self::Flip(at, bit) => {
                let at = at.index(text.len());
                text[at] ^= 1 << bit;
            }
            Self::Set(at, byte) => {
                let at = at.index(text.len());
                text[at] = *byte;
            }
            Self::Cut(at, count) => drop(text.drain(span(&text, place(at), *count))),
            Self::End(at) => text.truncate(place(at)),
            Self::Insert(at, new) => drop(text.splice(place(at)..place(at), new.clone())),
            Self::Repeat(at, count, times) => {
                let span = span(&text, place(at), *count);
                let again = text[span.clone()].repeat(*times);
                drop(text.splice(span.end..span.end, again));
            }
            Self::SwapHalves(at) => {
                let at = place(at);
                text.rotate_left(at);
            }
            Self::SwapLines(one, other) => {
                let mut lines = lines(&text);
                let count = lines.len();
                lines.swap(one.index(count), other.index(count));
                text = lines.concat();
            }
            Self::DropLine(at) => {
                let mut lines = lines(&text);
                lines.remove(at.index(lines.len()));
                text = lines.concat();
            }
            Self::RepeatLine(at) => {
                let mut lines = lines(&text);
                let at = at.index(lines.len());
                lines.insert(at, lines[at].clone());
                text = lines.concat();
            }
            Self::Join { before: true } => text = [other, &text].concat(),
            Self::Join { before: false } => text.extend(other),
            Self::LineEnds(end) => {
                let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
                text = lines.join(end.as_bytes());
            }
            Self::Wide => text = text.iter().flat_map(|byte| [*byte, 0]).collect(),
            Self::Nest { at, with, depth } => {
                drop(text.splice(place(at)..place(at), with.repeat(*depth)));
            }
            Self::Json(at, odd) => text = edit(text, at, odd),
        }
        text
    }
}

fn span(text: &[u8], from: usize, count: usize) -> Range<usize> {
    from..(from + count).min(text.len())
}

/// Each with its end: lines of PEM, members of JSON, parts of a token. At least one.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    let lines = text.split_inclusive(|byte| matches!(byte, b'\n' | b'.' | b','));
    let lines: Vec<_> = lines.map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        vec![Vec::new()]
    } else {
        lines
    }
}

fn edit(text: Vec<u8>, at: &Index, odd: &Odd) -> Vec<u8> {
    let Ok(mut document) = serde_json::from_slice::<Value>(&text) else {
        return text;
    };
    let mut places = Vec::new();
    pointers(&document, String::new(), &mut places);
    let place: &String = at.get(&places);
    let new = match odd {
        Odd::Value(value) => value.clone(),
        Odd::Text(text) => Value::from(text.as_str()),
        Odd::CopyOf(at) => {
            let place: &String = at.get(&places);
            document.pointer(place).unwrap().clone()
        }
        Odd::Deep => (0..120).fold(Value::Null, |inside, _| Value::from(vec![inside])),
        Odd::Gone => {
            let (parent, name) = place.rsplit_once('/').unwrap_or_default();
            match document.pointer_mut(parent) {
                Some(Value::Object(members)) => drop(members.remove(name)),
                Some(Value::Array(values)) => drop(values.pop()),
                _ => {}
            }
            return document.to_string().into_bytes();
        }
    };
    *document.pointer_mut(place).unwrap() = new;
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
