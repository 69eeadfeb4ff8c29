//! Checks that the modules of the library form layers, and that few files name foreign crates.
//!
//! The layers are those of the table in `src/lib.rs`, the files those of the table in
//! `docs/design.md`.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, visit::Visit};

/// A module of the library, such as `transport::stream`, and the absolute paths that it names.
struct Module {
    path: Vec<String>,
    names: BTreeSet<Vec<String>>,
    /// Its re-exports: the name, and the path behind it.
    exports: BTreeMap<String, Vec<String>>,
}

#[test]
fn no_module_imports_one_above_it() {
    let layers = layers();
    let rank = |name: &str| layers.iter().position(|layer| layer == name);
    let mut found = BTreeSet::new();
    for module in modules() {
        let Some(here) = module.path.first() else {
            continue;
        };
        let above = rank(here).unwrap_or_else(|| panic!("`{here}` is not in the table of lib.rs"));
        for name in &module.names {
            let there = &name[0];
            // Modules must not import what lib.rs re-exports from there.
            let below = rank(there).unwrap_or_else(|| panic!("{:?} names {name:?}", module.path));
            if below < above {
                found.insert(format!(
                    "{} names {}",
                    module.path.join("::"),
                    name.join("::")
                ));
            }
        }
    }
    assert_eq!(found, BTreeSet::new());
}

#[test]
fn there_is_no_circle() {
    let modules = modules();
    let by_path: BTreeMap<_, _> = modules
        .iter()
        .map(|module| (&module.path, module))
        .collect();
    // The module to which a path leads, through re-exports.
    let resolve = |name: &[String]| {
        let mut name = name.to_vec();
        for _ in 0..4 {
            let longest = (0..=name.len())
                .rev()
                .find(|length| by_path.contains_key(&name[..*length].to_vec()));
            let length = longest.unwrap_or(0);
            let export = name
                .get(length)
                .and_then(|first| by_path.get(&name[..length].to_vec())?.exports.get(first));
            match export {
                Some(behind) => name = [behind, &name[length + 1..]].concat(),
                None => return name[..length].to_vec(),
            }
        }
        name
    };
    let mut edges: BTreeMap<_, BTreeSet<Vec<String>>> = BTreeMap::new();
    for module in &modules {
        for name in &module.names {
            let target = resolve(name);
            let related = target.starts_with(&module.path) || module.path.starts_with(&target);
            if !related {
                edges.entry(module.path.clone()).or_default().insert(target);
            }
        }
    }
    // A module that names no other, or is named by no other, is in no circle.
    loop {
        let named: BTreeSet<_> = edges.values().flatten().cloned().collect();
        let before = edges.len();
        let rest: BTreeSet<_> = edges.keys().cloned().collect();
        edges.retain(|module, targets| {
            named.contains(module) && targets.iter().any(|target| rest.contains(target))
        });
        if edges.len() == before {
            break;
        }
    }
    let circles: Vec<_> = edges
        .iter()
        .map(|(module, targets)| {
            let targets = targets.iter().filter(|target| edges.contains_key(*target));
            let targets: Vec<_> = targets.map(|target| target.join("::")).collect();
            format!("{} names {}", module.join("::"), targets.join(", "))
        })
        .collect();
    assert_eq!(circles, [""; 0]);
}

#[test]
fn only_the_files_that_the_design_names_mention_foreign_parts() {
    let design = fs::read_to_string(root().join("../docs/design.md")).unwrap();
    let rows = design.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, library, files, _] = cells[..] else {
            return None;
        };
        let library = library.strip_prefix('`')?.strip_suffix('`')?;
        let files = files.split('`').skip(1).step_by(2).map(str::to_owned);
        ["temporalio_client", "rustls", "jsonwebtoken"]
            .contains(&library)
            .then(|| (library.to_owned(), files.collect::<BTreeSet<_>>()))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    assert_eq!(rows.len(), 3, "{rows:?}");
    for (library, expected) in rows {
        let found = sources().into_iter().filter(|(_, text)| {
            // The types of `pki_types` are plain data.
            let text = text.replace("rustls::pki_types", "");
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            code.into_iter().any(|line| names(line, &library))
        });
        let found: BTreeSet<_> = found.map(|(file, _)| file).collect();
        assert_eq!(found, expected, "{library}");
    }
}

/// Whether a line of code names this crate outside a string.
fn names(line: &str, library: &str) -> bool {
    let code: String = line.split('"').step_by(2).collect();
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == library)
        && (library != "rustls"
            || code.contains("rustls::") && !code.trim_end().ends_with("rustls::pki_types::{"))
}

/// The modules of the table in `lib.rs`, the highest first.
fn layers() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | "));
    let names = rows.filter_map(|row| {
        let name = row.split('`').nth(1)?;
        name.chars()
            .all(|c| c.is_alphanumeric() || c == '_')
            .then(|| name.to_owned())
    });
    names.collect()
}

fn modules() -> Vec<Module> {
    sources()
        .into_iter()
        .filter(|(file, _)| file != "samples.rs")
        .map(|(file, text)| {
            let path = file.strip_suffix(".rs").unwrap();
            let path: Vec<_> = path.split('/').map(str::to_owned).collect();
            let path = if path == ["lib"] { Vec::new() } else { path };
            let mut module = Module {
                path,
                names: BTreeSet::new(),
                exports: BTreeMap::new(),
            };
            module.visit_file(&syn::parse_file(&text).unwrap());
            if module.path.is_empty() {
                module.names.clear();
            }
            module
        })
        .collect()
}

/// Each source file below `src` that is not a test, with its path.
fn sources() -> Vec<(String, String)> {
    let (source, mut left, mut found) = (root().join("src"), vec![root().join("src")], Vec::new());
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_owned();
            if name == "tests" {
                continue;
            } else if path.is_dir() {
                left.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                let file = path.strip_prefix(&source).unwrap();
                found.push((file.to_str().unwrap().replace('\\', "/"), text));
            }
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

impl Module {
    /// The absolute path within the library, if the path leads there.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut absolute = match &first[..] {
            "crate" => Vec::new(),
            "self" => self.path.clone(),
            "super" => self.path.split_last().map(|(_, above)| above.to_vec())?,
            _ => return None,
        };
        for name in rest {
            match &name[..] {
                "super" => {
                    absolute.pop();
                }
                "self" | "*" => {}
                name => absolute.push(name.to_owned()),
            }
        }
        (!absolute.is_empty()).then_some(absolute)
    }

    fn note(&mut self, path: &[String]) -> Option<Vec<String>> {
        let absolute = self.absolute(path)?;
        self.names.insert(absolute.clone());
        Some(absolute)
    }
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item(&mut self, item: &'ast Item) {
        let is_test = |attributes: &[Attribute]| {
            let mut attributes = attributes.iter();
            attributes.any(|one| {
                one.path().is_ident("cfg") && {
                    let condition = one.parse_args::<syn::Path>();
                    condition.is_ok_and(|condition| condition.is_ident("test"))
                }
            })
        };
        match item {
            Item::Mod(ItemMod { attrs, .. }) | Item::Use(ItemUse { attrs, .. })
                if is_test(attrs) => {}
            item => syn::visit::visit_item(self, item),
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        let mut left = vec![(Vec::new(), &item.tree)];
        while let Some((prefix, tree)) = left.pop() {
            let with = |name: &syn::Ident| [&prefix[..], &[name.to_string()]].concat();
            match tree {
                UseTree::Path(path) => left.push((with(&path.ident), &path.tree)),
                UseTree::Group(group) => {
                    left.extend(group.items.iter().map(|tree| (prefix.clone(), tree)));
                }
                UseTree::Glob(_) => {
                    self.note(&prefix);
                }
                UseTree::Name(name) => {
                    let path = with(&name.ident);
                    // `mod child; pub use child::Name;`
                    let child = [&["self".to_owned()], &path[..]].concat();
                    let own = !["crate", "self", "super"].contains(&&path[0][..]);
                    let behind = match own && exported {
                        true => self.absolute(&child),
                        false => self.note(&path),
                    };
                    if let Some(behind) = behind.filter(|_| exported) {
                        self.exports.insert(name.ident.to_string(), behind);
                    }
                }
                UseTree::Rename(rename) => {
                    self.note(&with(&rename.ident));
                }
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path
            .segments
            .iter()
            .map(|one| one.ident.to_string())
            .collect();
        self.note(&segments);
        syn::visit::visit_path(self, path);
    }
}
