//! `cargo sim diff`: where two traces part.

#![expect(clippy::disallowed_methods, reason = "this program drives simulations; it is not simulated")]

use crate::{DiffArgs, Failure};
use std::collections::BTreeMap;
use std::path::Path;

/// Lines shown before the first difference.
const CONTEXT: usize = 20;
/// Lines shown from it on, of each.
const BEHIND: usize = 5;

pub fn run(args: &DiffArgs) -> Result<(), Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::Harness(format!("read the trace {}: {error}; --trace FILE of `cargo sim run` writes one", path.display()))
        })
    };
    let (a, b) = (read(&args.first)?, read(&args.second)?);
    if !print(&a, &b) {
        println!("the traces are equal: {} events", a.lines().count());
        return Ok(());
    }
    for (kind, (of_a, of_b)) in by_kind(&a, &b) {
        println!("{kind:<20} {of_a:>8} {of_b:>8}");
    }
    Err(Failure::Nondeterministic)
}

/// Number of the first line that differs.
fn first_difference(a: &[&str], b: &[&str]) -> Option<usize> {
    let differs = a.iter().zip(b).position(|(a, b)| a != b);
    differs.or_else(|| (a.len() != b.len()).then_some(a.len().min(b.len())))
}

/// Prints the first difference with what came before; false if there is none.
pub fn print(a: &str, b: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let Some(at) = first_difference(&a, &b) else { return false };
    println!("the first difference is in line {}", at + 1);
    a[at.saturating_sub(CONTEXT)..at].iter().for_each(|line| println!("    {line}"));
    for (mark, lines) in [("<", &a), (">", &b)] {
        match lines.get(at..) {
            Some(rest) if !rest.is_empty() => rest.iter().take(BEHIND).for_each(|line| println!("  {mark} {line}")),
            _ => println!("  {mark} (the trace ends)"),
        }
    }
    true
}

/// How many events of each kind the two have, where that differs.
fn by_kind<'a>(a: &'a str, b: &'a str) -> BTreeMap<&'a str, (u64, u64)> {
    let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let kind = |line: &'a str| line.split_whitespace().nth(3).unwrap_or("-");
    a.lines().for_each(|line| kinds.entry(kind(line)).or_default().0 += 1);
    b.lines().for_each(|line| kinds.entry(kind(line)).or_default().1 += 1);
    kinds.retain(|_, (a, b)| a != b);
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_a_line_or_an_end() {
        assert_eq!(first_difference(&["a", "b"], &["a", "b"]), None);
        assert_eq!(first_difference(&["a", "b"], &["a", "c"]), Some(1));
        assert_eq!(first_difference(&["a"], &["a", "c"]), Some(1));
        assert_eq!(first_difference(&[], &["a"]), Some(0));
    }

    #[test]
    fn kinds_with_other_counts_are_told() {
        let (a, b) = ("1 ps/0 t disk x\n2 ps/0 t net x\n", "1 ps/0 t disk x\n2 ps/0 t net x\n3 ps/0 t net y\n");
        assert_eq!(by_kind(a, b).into_iter().collect::<Vec<_>>(), [("net", (1, 2))]);
    }
}
