//! Names of files and directories: the live tree, and the changes that a crash may take back.
//!
//! Changes are a journal of operations, each of which is durable as a whole or not at all; `sync_dir` makes those of one
//! directory durable. At a power loss each remaining operation survives on its own, so a later one may stay where an
//! earlier one is lost.

use palimpsest::io_abstraction::DetRng;
use palimpsest::io_abstraction::rng::below;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Number of a file on this disk.
pub type Ino = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    Dir,
    File(Ino),
}

/// A tree: normalised absolute path (no trailing slash, the root is "") to what is there.
type Tree = BTreeMap<String, Node>;

/// Assignments that happen together.
type Operation = Vec<(String, Option<Node>)>;

#[derive(Default)]
pub struct Names {
    live: Tree,
    durable: Tree,
    journal: Vec<Operation>,
}

/// The directory a path is in.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Names {
    pub fn get(&self, path: &str) -> Option<Node> {
        if path.is_empty() { Some(Node::Dir) } else { self.live.get(path).copied() }
    }

    pub fn require_dir(&self, path: &str) -> io::Result<()> {
        match self.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Performs an operation in memory and notes it in the journal.
    pub fn apply(&mut self, operation: Operation) {
        assign(&mut self.live, &operation);
        self.journal.push(operation);
    }

    /// Paths directly in a directory.
    pub fn children<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, Node)> + 'a {
        let prefix = format!("{dir}/");
        let start = prefix.clone();
        let skip = prefix.len();
        self.live
            .range(start..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .filter(move |(path, _)| !path[skip..].contains('/'))
            .map(move |(path, node)| (&path[skip..], *node))
    }

    /// Everything below a directory, deepest first.
    pub fn subtree(&self, dir: &str) -> Vec<(String, Node)> {
        let prefix = format!("{dir}/");
        let mut found: Vec<_> =
            self.live.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix)).map(|(p, n)| (p.clone(), *n)).collect();
        found.reverse();
        found
    }

    /// Makes the pending changes of a directory durable.
    pub fn sync_dir(&mut self, dir: &str) {
        let touches = |operation: &Operation| operation.iter().any(|(path, _)| parent(path) == dir);
        // An operation on two directories needs everything before it in the other one: then the whole journal up to it goes.
        let two_dirs = |operation: &Operation| operation.iter().any(|(path, _)| parent(path) != dir);
        let whole = self.journal.iter().rposition(|o| touches(o) && two_dirs(o)).map_or(0, |at| at + 1);
        let mut kept = Vec::new();
        for (at, operation) in std::mem::take(&mut self.journal).into_iter().enumerate() {
            if at < whole || touches(&operation) {
                assign(&mut self.durable, &operation);
            } else {
                kept.push(operation);
            }
        }
        self.journal = kept;
    }

    /// Power loss: each pending operation survives or not. Gives the number of lost ones.
    pub fn crash(&mut self, rng: &mut DetRng) -> u64 {
        let mut lost = 0;
        for operation in std::mem::take(&mut self.journal) {
            if below(rng, 2) == 0 {
                assign(&mut self.durable, &operation);
            } else {
                lost += 1;
            }
        }
        // What is in a directory that does not exist cannot be reached any more.
        let mut reachable = Tree::new();
        for (path, node) in &self.durable {
            let dir = parent(path);
            if dir.is_empty() || reachable.get(dir) == Some(&Node::Dir) {
                reachable.insert(path.clone(), *node);
            }
        }
        self.live = reachable.clone();
        self.durable = reachable;
        lost
    }

    /// Files that have a name, or may have one after a crash.
    pub fn reachable(&self) -> BTreeSet<Ino> {
        let journal = self.journal.iter().flatten().filter_map(|(_, node)| *node);
        let nodes = self.live.values().chain(self.durable.values()).copied().chain(journal);
        nodes.filter_map(|node| if let Node::File(ino) = node { Some(ino) } else { None }).collect()
    }

    /// All files that have a name now.
    pub fn files(&self) -> impl Iterator<Item = (&str, Ino)> {
        self.live.iter().filter_map(|(path, node)| match node {
            Node::File(ino) => Some((path.as_str(), *ino)),
            Node::Dir => None,
        })
    }
}

fn assign(tree: &mut Tree, operation: &Operation) {
    for (path, node) in operation {
        match node {
            Some(node) => _ = tree.insert(path.clone(), *node),
            None => _ = tree.remove(path),
        }
    }
}
