//! Errors that say a command did not run here and now.

use super::slot::SLOTS;
use crate::target::Address;

/// Why a node did not run a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The slot belongs to another node.
    Moved(u16, Address),
    /// The key, if it exists, has gone to another node ahead of its slot.
    Ask(u16, Address),
    /// Some keys have gone ahead and some have not.
    TryAgain,
    /// The cluster is down, or nobody serves the slot.
    ClusterDown,
    /// A replica has no data to show at the moment, or does not know the script.
    NotHere,
}

impl Refusal {
    /// What the error that `asked` gave says, if it is one of these.
    pub(super) fn read(error: &[u8], asked: &Address) -> Option<Self> {
        // A longer one was made up by a script, and what is kept of it would be counted by nobody.
        if error.len() > LONGEST {
            return None;
        }
        let text = std::str::from_utf8(error).ok()?;
        let (code, rest) = text.split_once(' ')?;
        Some(match code {
            "MOVED" => {
                let (slot, address) = place(rest, asked)?;
                Self::Moved(slot, address)
            }
            "ASK" => {
                let (slot, address) = place(rest, asked)?;
                Self::Ask(slot, address)
            }
            "TRYAGAIN" => Self::TryAgain,
            "CLUSTERDOWN" => Self::ClusterDown,
            "LOADING" | "MASTERDOWN" | "NOSCRIPT" => Self::NotHere,
            _ => return None,
        })
    }
}

/// Longer than any of these, in bytes: a host has at most 255.
const LONGEST: usize = 512;

/// `3999 127.0.0.1:6381`; a host that is missing is the one that was asked.
fn place(text: &str, asked: &Address) -> Option<(u16, Address)> {
    let (slot, address) = text.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    let slot = slot.parse().ok().filter(|slot| *slot < SLOTS)?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = if host.is_empty() { &asked.host } else { host };
    Some((slot, Address { host: host.to_owned(), port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_other_errors() {
        let asked = Address { host: "seed".into(), port: 7 };
        let read = |error: &str| Refusal::read(error.as_bytes(), &asked);
        let at = |host: &str, port| Address { host: host.into(), port };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Some(Refusal::Moved(3999, at("127.0.0.1", 6381))));
        assert_eq!(read("MOVED 3999 :6381"), Some(Refusal::Moved(3999, at("seed", 6381))));
        assert_eq!(read("ASK 1 ::1:6381"), Some(Refusal::Ask(1, at("::1", 6381))));
        assert_eq!(read("TRYAGAIN Multiple keys request during rehashing of slot"), Some(Refusal::TryAgain));
        assert_eq!(read("CLUSTERDOWN The cluster is down"), Some(Refusal::ClusterDown));
        assert_eq!(read("LOADING Redis is loading the dataset in memory"), Some(Refusal::NotHere));
        for error in [
            "MOVED",
            "MOVED 1",
            "MOVED x h:1",
            "MOVED 16384 h:1",
            "MOVED 1 h:0",
            "MOVED 1 h",
            "ASK 1 h:x",
            "MOVEDX 1 h:1",
            "ERR MOVED 1 h:1",
            "WRONGTYPE x",
            &format!("CLUSTERDOWN {}", "x".repeat(1000)),
            &format!("MOVED 1 {}:1", "h".repeat(1000)),
        ] {
            assert_eq!(read(error), None, "{error}");
        }
        assert_eq!(Refusal::read(b"MOVED 1 \xff:1", &asked), None);
    }
}
