//! What a node says of its cluster: `CLUSTER SLOTS`, and the other addresses in `CLUSTER NODES`.

use std::collections::BTreeSet;
use std::fmt;

use super::slot::SLOTS;
use crate::resp::{Item, Reader};
use crate::target::Address;

/// Who serves which slots, as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Slots that lie together and are served together; ascending.
    pub(super) ranges: Vec<Range>,
}

/// Slots and who serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The first slot.
    pub(super) first: u16,
    /// The last slot.
    pub(super) last: u16,
    /// Who takes writes.
    pub(super) master: Address,
    /// Who follows.
    pub(super) replicas: Vec<Address>,
}

/// An answer that cannot be understood, or helps nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadLayout {
    /// The node refused to tell.
    Refused(String),
    /// It tells something else.
    Nonsense,
    /// It knows of no slots: it belongs to no cluster yet, or not any more.
    Empty,
}

impl Layout {
    /// Reads an answer to `CLUSTER SLOTS` that `asked` gave.
    pub(super) fn read(reply: &[u8], asked: &Address) -> Result<Self, BadLayout> {
        let mut reader = Reader(reply);
        let ranges = match reader.next() {
            Some(Item::Array(ranges)) => ranges,
            Some(Item::Error(text)) => {
                return Err(BadLayout::Refused(String::from_utf8_lossy(text).into_owned()));
            }
            _ => return Err(BadLayout::Nonsense),
        };
        let mut layout = Self::default();
        for _ in 0..ranges {
            if layout.ranges.len() == usize::from(SLOTS) {
                return Err(BadLayout::Nonsense);
            }
            layout.ranges.push(range(&mut reader, asked).ok_or(BadLayout::Nonsense)?);
        }
        layout.ranges.sort_by_key(|range| range.first);
        let nodes = layout.ranges.iter().flat_map(|range| range.replicas.iter().chain([&range.master]));
        if nodes.collect::<BTreeSet<_>>().len() > MOST_NODES {
            return Err(BadLayout::Nonsense);
        }
        if layout.ranges.is_empty() { Err(BadLayout::Empty) } else { Ok(layout) }
    }
}

/// The addresses of all nodes, those without slots too, in an answer to `CLUSTER NODES` that `asked` gave.
pub(super) fn addresses(reply: &[u8], asked: &Address) -> Vec<Address> {
    let Some(Item::Bulk(text)) = Reader(reply).next() else { return Vec::new() };
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.split(' ').nth(1)).flat_map(|field| node_addresses(field, asked)).collect()
}

/// `127.0.0.1:6379@16379,name.of.it,shard-id=…`: the address, and the name with the same port.
fn node_addresses(field: &str, asked: &Address) -> Vec<Address> {
    let mut words = field.split(',');
    let address = words.next().unwrap_or_default();
    let address = address.split_once('@').map_or(address, |(address, _)| address);
    let Some((host, port)) = address.rsplit_once(':') else { return Vec::new() };
    let Some(port) = port.parse().ok().filter(|port| *port != 0) else { return Vec::new() };
    let host = if host.is_empty() { asked.host.as_str() } else { host };
    let name = words.next().filter(|name| !name.is_empty() && !name.contains('='));
    [Some(host), name].into_iter().flatten().map(|host| Address { host: host.to_owned(), port }).collect()
}

/// One range: first and last slot, and then the nodes, the master first.
fn range(reader: &mut Reader<'_>, asked: &Address) -> Option<Range> {
    let Some(Item::Array(parts @ 3..)) = reader.next() else { return None };
    let (first, last) = (slot_number(reader)?, slot_number(reader)?);
    if first > last {
        return None;
    }
    let master = node(reader, asked)?;
    let mut replicas = Vec::new();
    for _ in 3..parts {
        let replica = node(reader, asked)?;
        if replicas.len() < MOST_REPLICAS && !replicas.contains(&replica) {
            replicas.push(replica);
        }
    }
    Some(Range { first, last, master, replicas })
}

fn slot_number(reader: &mut Reader<'_>) -> Option<u16> {
    match reader.next()? {
        Item::Integer(digits) => number(digits).filter(|slot| *slot < SLOTS),
        _ => None,
    }
}

/// Host, port, identifier and, since 7.0, more ways to reach it. A host that is missing is the one that was asked; `?`
/// stands for a name that was never set, and then the address is among the rest.
fn node(reader: &mut Reader<'_>, asked: &Address) -> Option<Address> {
    let mut node = Reader(reader.reply()?);
    let Some(Item::Array(2..)) = node.next() else { return None };
    let host = match node.next()? {
        Item::Bulk(b"") | Item::Nil => None,
        Item::Bulk(host) => Some(std::str::from_utf8(host).ok()?),
        _ => return None,
    };
    let port = match node.next()? {
        Item::Integer(digits) => number(digits).filter(|port| *port != 0)?,
        _ => return None,
    };
    let host = if host == Some("?") { address_in_metadata(node) } else { host };
    Some(Address { host: host.unwrap_or(&asked.host).to_owned(), port })
}

fn address_in_metadata(mut rest: Reader<'_>) -> Option<&str> {
    rest.next()?;
    let Some(Item::Array(_)) = rest.next() else { return None };
    while let (Some(Item::Bulk(name)), Some(Item::Bulk(value))) = (rest.next(), rest.next()) {
        if name == b"ip" {
            return std::str::from_utf8(value).ok();
        }
    }
    None
}

fn number(digits: &[u8]) -> Option<u16> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl fmt::Display for BadLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => write!(f, "redis refuses CLUSTER SLOTS: {text}"),
            Self::Nonsense => f.write_str("the answer to CLUSTER SLOTS cannot be understood"),
            Self::Empty => f.write_str("the node knows of no slots: it belongs to no cluster"),
        }
    }
}

const MOST_REPLICAS: usize = 64;

/// A cluster has a thousand nodes at most. Each gets connections, so a false answer must not make us open any number.
pub(super) const MOST_NODES: usize = 2048;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked() -> Address {
        Address { host: "seed".into(), port: 7 }
    }

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    /// A node as Redis writes it; `None` is a nil host.
    fn written(host: Option<&str>, port: u16, metadata: &[&str]) -> String {
        let host = host.map_or("$-1\r\n".to_owned(), |host| format!("${}\r\n{host}\r\n", host.len()));
        let rest: String = metadata.iter().map(|text| format!("${}\r\n{text}\r\n", text.len())).collect();
        format!("*4\r\n{host}:{port}\r\n$2\r\nid\r\n*{}\r\n{rest}", metadata.len())
    }

    #[test]
    fn both_the_old_and_the_new_form_are_read() {
        // As 7.0 and 8.2 answer.
        let reply = format!(
            "*2\r\n*4\r\n:5461\r\n:16383\r\n{}{}*3\r\n:0\r\n:5460\r\n{}",
            written(Some("10.0.0.2"), 2, &[]),
            written(Some("10.0.0.3"), 3, &["hostname", "c"]),
            written(Some("::1"), 1, &[]),
        );
        let ranges = Layout::read(reply.as_bytes(), &asked()).unwrap().ranges;
        assert_eq!(
            ranges,
            [
                Range { first: 0, last: 5460, master: address("::1", 1), replicas: vec![] },
                Range {
                    first: 5461,
                    last: 16383,
                    master: address("10.0.0.2", 2),
                    replicas: vec![address("10.0.0.3", 3)]
                },
            ]
        );
        // As versions before 7.0 did.
        let reply = "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nh\r\n:9\r\n";
        assert_eq!(Layout::read(reply.as_bytes(), &asked()).unwrap().ranges[0].master, address("h", 9));
    }

    #[test]
    fn a_host_that_is_missing_is_the_one_that_was_asked() {
        for (node, expected) in [
            (written(None, 1, &[]), address("seed", 1)),
            (written(Some(""), 1, &[]), address("seed", 1)),
            (written(Some("?"), 1, &["ip", "10.0.0.1"]), address("10.0.0.1", 1)),
            (written(Some("?"), 1, &[]), address("seed", 1)),
            (written(Some("name"), 1, &["ip", "10.0.0.1"]), address("name", 1)),
        ] {
            let reply = format!("*1\r\n*3\r\n:0\r\n:1\r\n{node}");
            assert_eq!(Layout::read(reply.as_bytes(), &asked()).unwrap().ranges[0].master, expected);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let node = written(Some("h"), 1, &[]);
        for (reply, expected) in [
            ("*0\r\n".into(), BadLayout::Empty),
            ("-NOPERM no\r\n".into(), BadLayout::Refused("NOPERM no".into())),
            ("+OK\r\n".into(), BadLayout::Nonsense),
            (format!("*1\r\n*3\r\n:0\r\n:16384\r\n{node}"), BadLayout::Nonsense),
            (format!("*1\r\n*3\r\n:2\r\n:1\r\n{node}"), BadLayout::Nonsense),
            (format!("*1\r\n*3\r\n:-1\r\n:1\r\n{node}"), BadLayout::Nonsense),
            ("*1\r\n*2\r\n:0\r\n:1\r\n".into(), BadLayout::Nonsense),
            (format!("*1\r\n*3\r\n:0\r\n:1\r\n{}", written(Some("h"), 0, &[])), BadLayout::Nonsense),
            (format!("*2\r\n*3\r\n:0\r\n:1\r\n{node}"), BadLayout::Nonsense),
            ("*999999999999\r\n".into(), BadLayout::Nonsense),
            (
                (0..3000).fold("*3000\r\n".to_owned(), |reply, slot| {
                    format!("{reply}*3\r\n:{slot}\r\n:{slot}\r\n{}", written(Some("h"), slot + 1, &[]))
                }),
                BadLayout::Nonsense,
            ),
        ] {
            assert_eq!(Layout::read(reply.as_bytes(), &asked()), Err(expected), "{reply}");
        }
    }

    #[test]
    fn nodes_without_slots_have_addresses_too() {
        let text = "id1 127.0.0.1:7000@17000,,tls-port=0,shard-id=x myself,master - 0 0 1 connected 0-5460\n\
                    id2 ::1:7001@17001,two.local master - 0 1 2 connected\n\
                    id3 :0@0 slave,noaddr - 0 1 2 disconnected\n\
                    id4 :7004@17004 master - 0 0 1 connected\n\nnonsense\n";
        let reply = format!("${}\r\n{text}\r\n", text.len());
        assert_eq!(
            addresses(reply.as_bytes(), &asked()),
            [
                address("127.0.0.1", 7000),
                address("::1", 7001),
                address("two.local", 7001),
                address("seed", 7004)
            ]
        );
        assert_eq!(addresses(b"-NOPERM no\r\n", &asked()), []);
    }

    proptest! {
        #[test]
        fn whatever_a_node_says_is_survived(
            bytes: Vec<u8>,
            lines in "([*$:+-][0-9]{0,5}\r\n|127.0.0.1:1@2,x [a-z]{3}|\r\n|\n| ){0,30}",
        ) {
            for bytes in [bytes.as_slice(), lines.as_bytes()] {
                if let Ok(layout) = Layout::read(bytes, &asked()) {
                    prop_assert!(layout.ranges.iter().all(|range| range.first <= range.last && range.last < SLOTS));
                }
                addresses(bytes, &asked());
                addresses(&[format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(), &asked());
            }
        }

        #[test]
        fn a_broken_answer_never_gives_more_than_the_whole_one(cut in 0_usize..200, byte: u8) {
            let node = written(Some("h"), 1, &["hostname", "x"]);
            let mut reply = format!("*2\r\n*4\r\n:0\r\n:100\r\n{node}{node}*3\r\n:101\r\n:16383\r\n{node}").into_bytes();
            if let Some(place) = reply.get_mut(cut) {
                *place = byte;
            }
            if let Ok(layout) = Layout::read(&reply, &asked()) {
                prop_assert!(layout.ranges.len() <= 2);
            }
            if cut < reply.len() {
                reply.truncate(cut);
                prop_assert!(Layout::read(&reply, &asked()).is_err());
            }
        }
    }
}
