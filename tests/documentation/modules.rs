//! The drawing of the modules in CONTRIBUTING.md, held against what the files import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The packages, and the folders of their files.
const PACKAGES: [(&str, &str); 4] = [
    ("mailaffinity", "src"),
    ("mailaffinity_cli", "cli/src"),
    ("mailaffinity_lua", "lua/src"),
    ("mailaffinity_php", "php/src"),
];

/// The library's own edge, which only the library's root may know.
const C_EDGE: &str = "src/capi/";

#[test]
fn imports_go_as_the_drawing_says() {
    let code = Code::read();
    let drawing = Drawing::read();
    let mut found = BTreeSet::new();
    found.extend(code.against_the_order(&drawing));
    found.extend(code.between_edges());
    found.extend(code.between_commands());
    found.extend(code.circles());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_drawing_has_every_module_and_no_other() {
    let code = Code::read();
    let modules: BTreeSet<&str> = code.files.iter().filter_map(File::drawn_as).collect();
    let drawing = Drawing::read();
    let drawn: BTreeSet<&str> = drawing.modules.iter().map(String::as_str).collect();
    assert_eq!(drawn, modules);
    assert_eq!(drawn.len(), drawing.modules.len(), "each once");
    for path in &drawing.folders {
        assert!(Path::new(path).exists(), "{path}");
    }
    for entry in fs::read_dir("tests").unwrap() {
        let path = entry.unwrap().path();
        let folder = format!("{}/", path.display());
        assert!(!path.is_dir() || drawing.folders.contains(&folder), "{folder}");
    }
}

/// Of each rule, an import that breaks it is found.
#[test]
fn what_is_against_the_drawing_is_found() {
    let code = |files: &[(&str, &str)]| {
        let mut code = Code::default();
        for (path, text) in files {
            code.add(path, text);
        }
        code
    };
    let drawing = Drawing {
        modules: ["src/a.rs", "src/b/", "src/capi/", "cli/src/commands/"]
            .map(str::to_owned)
            .to_vec(),
        folders: Vec::new(),
    };

    let upward = code(&[
        ("src/a.rs", "fn f() { vec![crate::b::g()]; }"),
        ("src/b/mod.rs", ""),
    ]);
    assert_eq!(
        upward.against_the_order(&drawing),
        ["src/a.rs imports src/b/mod.rs, which is drawn below it"]
    );
    let to_the_root = code(&[
        ("src/a.rs", "use crate::X;"),
        ("src/lib.rs", "pub const X: u8 = 1;"),
    ]);
    assert_eq!(
        to_the_root.against_the_order(&drawing),
        ["src/a.rs imports src/lib.rs, which is drawn below it"]
    );
    let downward = code(&[
        ("src/a.rs", "#[cfg(test)] mod tests { use crate::b; }"),
        ("src/b/mod.rs", "use crate::a::{self, X};"),
        ("cli/src/commands/mod.rs", "use mailaffinity::b;"),
    ]);
    assert_eq!(downward.against_the_order(&drawing), [""; 0]);
    assert_eq!(downward.between_edges(), [""; 0]);

    let edges = code(&[
        ("src/capi/mod.rs", ""),
        ("cli/src/commands/mod.rs", "use mailaffinity::capi::x;"),
        ("php/src/lib.rs", "use mailaffinity_cli::{commands};"),
    ]);
    assert_eq!(
        edges.between_edges(),
        [
            "cli/src/commands/mod.rs imports src/capi/mod.rs, another edge",
            "php/src/lib.rs imports cli/src/commands/mod.rs, another edge"
        ]
    );

    let commands = code(&[
        (
            "cli/src/commands/mod.rs",
            "enum Command { Map(map::Map), Nodes(nodes::Nodes) }",
        ),
        (
            "cli/src/commands/map.rs",
            "use super::nodes::names; use super::report;",
        ),
        ("cli/src/commands/nodes/mod.rs", ""),
        ("cli/src/commands/report.rs", ""),
    ]);
    assert_eq!(
        commands.between_commands(),
        ["cli/src/commands/map.rs imports cli/src/commands/nodes/mod.rs, another command"]
    );

    // The last of the three by way of what mod.rs passes on.
    let circle = code(&[
        ("src/b/mod.rs", "mod x; mod y; mod z; pub use x::{X as Name};"),
        ("src/b/x.rs", "use super::y;"),
        ("src/b/y.rs", "use crate::b::z::*;"),
        ("src/b/z.rs", "use super::Name;"),
    ]);
    assert_eq!(
        circle.circles(),
        ["src/b/x.rs, src/b/y.rs, src/b/z.rs import each other"]
    );
}

/// The list in CONTRIBUTING.md.
struct Drawing {
    /// Each knows only those of its package that are before it.
    modules: Vec<String>,
    /// What else is in the tree.
    folders: Vec<String>,
}

impl Drawing {
    fn read() -> Drawing {
        let text = fs::read_to_string("CONTRIBUTING.md").unwrap();
        let (_, section) = text.split_once("## The source\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let (modules, folders) = section
            .lines()
            .filter_map(|line| line.strip_prefix("    ")?.split(' ').next())
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .partition(|path| {
                PACKAGES
                    .iter()
                    .any(|(_, folder)| path.starts_with(&format!("{folder}/")))
            });
        Drawing { modules, folders }
    }

    /// A package's root is below all that it has.
    fn place(&self, file: &File) -> usize {
        let drawn_as = file.drawn_as();
        let place = self
            .modules
            .iter()
            .position(|path| Some(path.as_str()) == drawn_as);
        place.unwrap_or(self.modules.len())
    }
}

/// A path of names, from a package on.
type Names = Vec<String>;

struct File {
    path: String,
    package: &'static str,
    /// Its name as a module of the package.
    module: Names,
    /// What it imports, and whether it passes that on, by which name.
    paths: Vec<(Names, Option<String>)>,
}

impl File {
    fn is_root(&self) -> bool {
        self.module.is_empty() || self.module[0] == "bin"
    }

    /// The part of its path that the drawing has.
    fn drawn_as(&self) -> Option<&str> {
        let (_, folder) = PACKAGES.iter().find(|(package, _)| *package == self.package)?;
        let start = folder.len() + 1;
        let end = match self.path[start..].find('/') {
            Some(slash) => start + slash + 1,
            None => self.path.len(),
        };
        Some(&self.path[..end]).filter(|_| !self.is_root())
    }

    fn edge(&self) -> Option<&'static str> {
        match self.package {
            "mailaffinity" => self.path.starts_with(C_EDGE).then_some("capi"),
            other => Some(other),
        }
    }

    /// Whether it is the file of a module that the other's is in.
    fn holds(&self, other: &File) -> bool {
        self.package == other.package
            && (self.is_root() || other.module.starts_with(&self.module))
            && self.module.len() < other.module.len()
    }
}

#[derive(Default)]
struct Code {
    files: Vec<File>,
    texts: BTreeMap<String, String>,
}

impl Code {
    fn read() -> Code {
        let mut code = Code::default();
        for (_, folder) in PACKAGES {
            let mut folders = vec![folder.to_owned()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder).unwrap() {
                    let path = entry.unwrap().path().to_str().unwrap().to_owned();
                    if Path::new(&path).is_dir() {
                        folders.push(path);
                    } else if path.ends_with(".rs") {
                        code.add(&path, &fs::read_to_string(&path).unwrap());
                    }
                }
            }
        }
        assert!(code.files.len() > 50, "only {} files", code.files.len());
        code
    }

    fn add(&mut self, path: &str, text: &str) {
        let (package, in_package) = PACKAGES
            .iter()
            .find_map(|(package, folder)| Some((*package, path.strip_prefix(folder)?.strip_prefix('/')?)))
            .unwrap();
        let mut module: Names = in_package
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        if ["mod", "lib"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut paths = Vec::new();
        collect_paths(tokens, &mut paths);
        self.texts.insert(path.to_owned(), text.to_owned());
        self.files.push(File {
            path: path.to_owned(),
            package,
            module,
            paths,
        });
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// Who imports whom, each pair once. A module may know the files that it is made of.
    fn imports(&self) -> Vec<(&File, &File)> {
        let mut imports = Vec::new();
        for file in &self.files {
            let targets: BTreeSet<&str> = file
                .paths
                .iter()
                .filter_map(|(names, _)| self.file_of(file, names))
                .filter(|target| target.path != file.path && !file.holds(target))
                .map(|target| target.path.as_str())
                .collect();
            let targets = self
                .files
                .iter()
                .filter(|target| targets.contains(target.path.as_str()));
            imports.extend(targets.map(|target| (file, target)));
        }
        imports
    }

    /// The file that has what a path in `file` names.
    fn file_of(&self, file: &File, names: &[String]) -> Option<&File> {
        let (package, names) = self.absolute(file, names)?;
        let (length, found) = (0..=names.len()).rev().find_map(|length| {
            let is_it = |file: &&File| file.package == package && file.module == names[..length];
            Some((length, self.files.iter().find(is_it)?))
        })?;
        // What it passes on is another's.
        let passed_on = names.get(length).and_then(|name| {
            let mut paths = found.paths.iter();
            let (path, _) = paths.find(|(_, passed_on)| passed_on.as_ref() == Some(name))?;
            self.file_of(found, path)
        });
        passed_on.or(Some(found))
    }

    fn absolute(&self, file: &File, names: &[String]) -> Option<(&'static str, Names)> {
        let (first, rest) = names.split_first()?;
        let within = |module: &[String], rest: &[String]| Some((file.package, [module, rest].concat()));
        match first.as_str() {
            "crate" => within(&[], rest),
            "self" => within(&file.module, rest),
            "super" => {
                let above = rest.iter().take_while(|name| *name == "super").count();
                let kept = file.module.len().checked_sub(above + 1)?;
                within(&file.module[..kept], &rest[above..])
            }
            name => match PACKAGES.iter().find(|(package, _)| *package == name) {
                Some((package, _)) if *package != file.package => Some((package, rest.to_vec())),
                _ => {
                    let child = [&file.module[..], &names[..1]].concat();
                    let is_child = |other: &File| other.package == file.package && other.module == child;
                    self.files
                        .iter()
                        .any(is_child)
                        .then(|| within(&file.module, names))?
                }
            },
        }
    }

    fn against_the_order(&self, drawing: &Drawing) -> Vec<String> {
        let library = PACKAGES[0].0;
        let is_below = |(file, target): &(&File, &File)| match file.package == target.package {
            true => drawing.place(target) > drawing.place(file),
            false => file.package == library,
        };
        let found = self.imports().into_iter().filter(is_below);
        said(found, ", which is drawn below it")
    }

    fn between_edges(&self) -> Vec<String> {
        let between = |(file, target): &(&File, &File)| {
            let both = file.edge().zip(target.edge());
            both.is_some_and(|(one, other)| one != other)
        };
        said(self.imports().into_iter().filter(between), ", another edge")
    }

    fn between_commands(&self) -> Vec<String> {
        const FOLDER: &str = "cli/src/commands/";
        let list = &self.texts[&format!("{FOLDER}mod.rs")];
        let (_, list) = list.split_once("enum Command {").unwrap();
        let (list, _) = list.split_once('}').unwrap();
        let commands: BTreeSet<&str> = list
            .split('(')
            .skip(1)
            .map(|variant| variant.split_once("::").unwrap().0)
            .collect();
        let command = |file: &File| {
            let name = file.path.strip_prefix(FOLDER)?.split(['/', '.']).next()?;
            commands.get(name).copied()
        };
        let between = |(file, target): &(&File, &File)| {
            let both = command(file).zip(command(target));
            both.is_some_and(|(one, other)| one != other)
        };
        said(self.imports().into_iter().filter(between), ", another command")
    }

    /// The files of which each imports the others, in however many steps.
    fn circles(&self) -> Vec<String> {
        let mut imported: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (file, target) in self.imports() {
            imported.entry(&file.path).or_default().insert(&target.path);
        }
        let reached_from = |path| {
            let mut reached = BTreeSet::new();
            let mut left = vec![path];
            while let Some(path) = left.pop() {
                let next = imported.get(path).into_iter().flatten();
                left.extend(next.filter(|path| reached.insert(**path)));
            }
            reached
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            imported.keys().map(|path| (*path, reached_from(path))).collect();
        let reaches = |one: &str, other: &str| reached.get(one).is_some_and(|paths| paths.contains(other));
        let circles: BTreeSet<Vec<&str>> = reached
            .keys()
            .filter(|path| reaches(path, path))
            .map(|path| {
                let back = reached[path].iter().filter(|other| reaches(other, path));
                back.copied().collect()
            })
            .collect();
        let circles = circles.iter();
        circles
            .map(|paths| format!("{} import each other", paths.join(", ")))
            .collect()
    }
}

fn said<'f>(imports: impl Iterator<Item = (&'f File, &'f File)>, why: &str) -> Vec<String> {
    imports
        .map(|(file, target)| format!("{} imports {}{why}", file.path, target.path))
        .collect()
}

// Of a file's tokens, those of paths: comments and texts are none, and macros' are like others.

fn collect_paths(tokens: TokenStream, paths: &mut Vec<(Names, Option<String>)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    let mut is_public = false;
    while let Some(token) = tokens.get(at) {
        match token {
            // Tests may know everything.
            TokenTree::Punct(mark) if mark.as_char() == '#' && is_for_tests(&tokens[at..]) => {
                let ends = |token: &TokenTree| match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    other => is_mark(Some(other), ';'),
                };
                at += tokens[at..].iter().position(ends).unwrap() + 1;
                continue;
            }
            TokenTree::Ident(word) if word == "mod" => {
                let is_inline = matches!(tokens.get(at + 2), Some(TokenTree::Group(_)));
                assert!(
                    !is_inline,
                    "a module within a file, which is read as a part of it: {word}"
                );
            }
            TokenTree::Ident(word) if word == "use" => {
                let mut found = Vec::new();
                at = path_at(&tokens, at + 1, &[], &mut found);
                let passed_on = found
                    .into_iter()
                    .map(|(path, name)| (path, name.filter(|_| is_public)));
                paths.extend(passed_on);
                is_public = false;
                continue;
            }
            TokenTree::Ident(word) => {
                let begins = !(at > 0 && is_mark(tokens.get(at - 1), ':')) && colons(&tokens, at + 1);
                let is_package = || PACKAGES.iter().any(|(package, _)| word == package);
                if begins && (["crate", "self", "super"].iter().any(|first| word == first) || is_package()) {
                    let mut found = Vec::new();
                    at = path_at(&tokens, at, &[], &mut found);
                    paths.extend(found.into_iter().map(|(path, _)| (path, None)));
                    continue;
                }
                is_public = word == "pub";
            }
            TokenTree::Group(group) => {
                // The one of `pub(crate)` is between the two words.
                is_public &= group.delimiter() == Delimiter::Parenthesis;
                collect_paths(group.stream(), paths);
            }
            _ => is_public = false,
        }
        at += 1;
    }
}

/// Reads the path at a place, with all that is in its braces, and the name of each of its
/// ends. Returns the place behind it.
fn path_at(
    tokens: &[TokenTree],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(Names, Option<String>)>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => {
                if name != "self" || path.is_empty() {
                    path.push(name.to_string());
                }
                at += 1;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let within: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut place = 0;
                while place < within.len() {
                    place = path_at(&within, place, &path, found) + 1;
                }
                return at + 1;
            }
            Some(_) if is_mark(tokens.get(at), '*') => at += 1,
            _ => {
                found.push((path, None));
                return at;
            }
        }
        if !colons(tokens, at) {
            break;
        }
        at += 2;
    }
    let mut name = path.last().cloned();
    if let (Some(TokenTree::Ident(word)), Some(TokenTree::Ident(other))) =
        (tokens.get(at), tokens.get(at + 1))
        && word == "as"
    {
        name = Some(other.to_string());
        at += 2;
    }
    found.push((path, name));
    at
}

fn is_mark(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn colons(tokens: &[TokenTree], at: usize) -> bool {
    is_mark(tokens.get(at), ':') && is_mark(tokens.get(at + 1), ':')
}

/// Whether these begin with `#[cfg(test)]`.
fn is_for_tests(tokens: &[TokenTree]) -> bool {
    matches!(tokens.get(1), Some(TokenTree::Group(group)) if group.stream().to_string().replace(' ', "") == "cfg(test)")
}
