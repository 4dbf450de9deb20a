//! Commands by name, from a fixed set: what clients write as a name must not become one in the metrics.

use std::sync::LazyLock;

use crate::command::{COMMANDS, Info};

/// How often each command was sent.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    counts: Box<[u64]>,
    other: u64,
}

impl Commands {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; TABLE.len()].into(), other: 0 }
    }

    /// Counts a command.
    pub(crate) fn count(&mut self, info: Option<&'static Info>) {
        let place =
            info.and_then(|info| TABLE.binary_search_by_key(&address(info), |(place, _)| *place).ok());
        match place.and_then(|place| self.counts.get_mut(place)) {
            Some(count) => *count += 1,
            None => self.other += 1,
        }
    }

    /// Adds what another one has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.other += other.other;
    }

    /// The commands that were sent, and how often; those that are not in the table as `other`.
    pub(crate) fn sent(&self) -> impl Iterator<Item = (&str, u64)> {
        let known = TABLE.iter().zip(&self.counts).map(|((_, name), count)| (name.as_str(), *count));
        known.chain([("other", self.other)]).filter(|(_, count)| *count > 0)
    }
}

/// Where each command is in memory, ascending, and its name as Redis's own statistics have it: `get`, `script|load`.
static TABLE: LazyLock<Vec<(usize, String)>> = LazyLock::new(|| {
    let mut table = Vec::new();
    for info in COMMANDS {
        let name = info.name.to_ascii_lowercase();
        for subcommand in info.subcommands {
            table.push((address(subcommand), format!("{name}|{}", subcommand.name.to_ascii_lowercase())));
        }
        table.push((address(info), name));
    }
    table.sort_unstable();
    table
});

fn address(info: &'static Info) -> usize {
    std::ptr::from_ref(info).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Arguments, command};

    #[test]
    fn commands_are_counted_by_their_names_and_unknown_ones_together() {
        let mut commands = Commands::new();
        for words in [
            &["get", "a"][..],
            &["GET", "b"],
            &["script", "LOAD", "x"],
            &["function", "load", "x"],
            &["nosuch"],
            &["x"],
        ] {
            commands.count(Info::of(Arguments::of(&command(words))));
        }
        let mut sent: Vec<_> = commands.sent().map(|(name, count)| (name.to_owned(), count)).collect();
        sent.sort();
        let expected = [("function|load", 1), ("get", 2), ("other", 2), ("script|load", 1)];
        assert_eq!(sent, expected.map(|(name, count)| (name.to_owned(), count)));
    }
}
