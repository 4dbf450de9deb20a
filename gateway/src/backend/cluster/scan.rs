//! `SCAN` over all masters, one after the other.
//!
//! Nothing is remembered between calls: the cursor a client gets holds the lowest slot of the master it is at, and the
//! cursor that this master gave. Any gateway and any thread can go on from there, and a master that took the place of
//! another as well. As with a single Redis, a key that moves to another node meanwhile may be seen twice or not at all.

use std::sync::Arc;

use super::map::Map;
use super::slot::SLOTS;
use crate::backend::node::Node;
use crate::resp::{Item, Reader, write_argument, write_command};

/// A call of `SCAN`, as it is sent.
#[derive(Debug)]
pub(super) struct Page {
    /// To whom.
    pub(super) node: Arc<Node>,
    /// The slot by which the cursor names it.
    pub(super) slot: u16,
    /// What.
    pub(super) resp: Vec<u8>,
}

/// Reads the cursor of a client; or the error that answers it.
pub(super) fn begin(arguments: &[&[u8]], map: &Map) -> Result<Page, &'static [u8]> {
    let Some(cursor) = arguments.get(1) else { return Err(WRONG_NUMBER) };
    let cursor: u64 =
        std::str::from_utf8(cursor).ok().and_then(|cursor| cursor.parse().ok()).ok_or(INVALID_CURSOR)?;
    let (slot, inner) = decode(cursor);
    // Whoever serves the slot now has the place of who did when the cursor was made. If nobody does, the next one begins.
    let owner = if cursor == 0 { None } else { map.owner(slot).map(|(_, shard)| (slot, shard, inner)) };
    let next = || map.shard_from(slot).map(|(slot, shard)| (slot, shard, 0));
    let (slot, shard, inner) = owner.or_else(next).ok_or(INVALID_CURSOR)?;
    let mut resp = Vec::new();
    write_command(&mut resp, arguments.len());
    for (position, argument) in arguments.iter().enumerate() {
        match position {
            1 => write_argument(&mut resp, itoa::Buffer::new().format(inner).as_bytes()),
            _ => write_argument(&mut resp, argument),
        }
    }
    Ok(Page { node: Arc::clone(&shard.master), slot, resp })
}

/// The answer for the client, from that of the master at `slot`.
pub(super) fn end(reply: &[u8], slot: u16, map: &Map) -> Vec<u8> {
    let mut reader = Reader(reply);
    let inner = match (reader.next(), reader.next()) {
        (Some(Item::Array(2)), Some(Item::Bulk(cursor))) => {
            std::str::from_utf8(cursor).ok().and_then(|cursor| cursor.parse::<u64>().ok())
        }
        // An error.
        _ => return reply.to_vec(),
    };
    let cursor = match inner {
        // This master has nothing more; the next one begins at its beginning.
        Some(0) => slot
            .checked_add(1)
            .and_then(|from| map.shard_from(from))
            .map_or(Some(0), |(slot, _)| encode(slot, 0)),
        Some(inner) => encode(slot, inner),
        None => None,
    };
    let Some(cursor) = cursor else { return TOO_LARGE.to_vec() };
    let mut out = b"*2\r\n".to_vec();
    write_argument(&mut out, itoa::Buffer::new().format(cursor).as_bytes());
    out.extend_from_slice(reader.0);
    out
}

/// Zero is the beginning and the end, so the slot must not be lost when the inner cursor is zero: only the first shard has
/// slot zero, and it begins with a cursor of zero anyway.
fn encode(slot: u16, inner: u64) -> Option<u64> {
    inner.checked_mul(u64::from(SLOTS)).map(|shifted| shifted | u64::from(slot))
}

fn decode(cursor: u64) -> (u16, u64) {
    let slots = u64::from(SLOTS);
    (u16::try_from(cursor % slots).unwrap_or_default(), cursor / slots)
}

const WRONG_NUMBER: &[u8] = b"-ERR wrong number of arguments for 'scan' command\r\n";
const INVALID_CURSOR: &[u8] = b"-ERR invalid cursor\r\n";
const TOO_LARGE: &[u8] = b"-ERR the cursor of redis is too large to be passed on\r\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::cluster::map::tests::map;
    use crate::resp::{Arguments, command};

    /// What a client asks with a cursor, and where that goes with which cursor.
    fn begin_at(cursor: &str, map: &Map) -> Result<(u16, u64, u16), &'static [u8]> {
        let arguments = [b"SCAN", cursor.as_bytes(), b"COUNT", b"5"];
        let page = begin(&arguments, map)?;
        let sent: Vec<&[u8]> = Arguments::of(&page.resp).collect();
        assert_eq!((sent[0], &sent[2..]), (arguments[0], &arguments[2..]));
        Ok((page.node.address().port, std::str::from_utf8(sent[1]).unwrap().parse().unwrap(), page.slot))
    }

    /// The cursor that a client gets when a master answers with `inner`.
    fn answered(inner: u64, slot: u16, map: &Map) -> String {
        let reply = [&b"*2\r\n"[..], &command(&[inner.to_string()])[4..], &command(&["key"])].concat();
        let reply = end(&reply, slot, map);
        let mut reader = Reader(&reply);
        let (Some(Item::Array(2)), Some(Item::Bulk(cursor))) = (reader.next(), reader.next()) else {
            panic!("{}", reply.escape_ascii());
        };
        assert_eq!(reader.0, command(&["key"]));
        String::from_utf8(cursor.to_vec()).unwrap()
    }

    #[test]
    fn one_master_comes_after_the_other() {
        let map = map(&[(0, 99, 1), (100, 199, 2), (200, 16383, 3)]);
        let mut cursor = "0".to_owned();
        for (port, slot) in [(1, 0), (2, 100), (3, 200)] {
            assert_eq!(begin_at(&cursor, &map), Ok((port, 0, slot)));
            cursor = answered(77, slot, &map);
            assert_eq!(begin_at(&cursor, &map), Ok((port, 77, slot)));
            cursor = answered(0, slot, &map);
        }
        assert_eq!(cursor, "0");
    }

    #[test]
    fn who_takes_the_place_of_a_master_goes_on_where_it_was() {
        let before = map(&[(0, 99, 1), (100, 16383, 2)]);
        let cursor = answered(77, 100, &before);
        assert_eq!(begin_at(&cursor, &map(&[(0, 99, 1), (100, 16383, 3)])), Ok((3, 77, 100)));
        // Where there is nobody, the next one begins.
        assert_eq!(begin_at(&cursor, &map(&[(0, 99, 1), (300, 16383, 3)])), Ok((3, 0, 300)));
        assert_eq!(begin_at(&cursor, &map(&[(0, 99, 1)])), Err(INVALID_CURSOR));
    }

    #[test]
    fn what_is_no_cursor_is_refused_and_errors_pass() {
        let map = map(&[(0, 16383, 1)]);
        for cursor in ["", "x", "-1", "18446744073709551616"] {
            assert_eq!(begin_at(cursor, &map), Err(INVALID_CURSOR));
        }
        assert_eq!(begin(&[b"SCAN"], &map).unwrap_err(), WRONG_NUMBER);
        assert_eq!(end(b"-ERR syntax error\r\n", 0, &map), b"-ERR syntax error\r\n");
    }

    proptest! {
        #[test]
        fn a_cursor_holds_a_slot_and_a_cursor(slot in 0..SLOTS, inner in 0..1_u64 << 50) {
            prop_assert_eq!(decode(encode(slot, inner).unwrap()), (slot, inner));
        }

        #[test]
        fn one_that_does_not_fit_is_noticed(slot in 0..SLOTS, inner in 1_u64 << 50..) {
            prop_assert_eq!(encode(slot, inner), None);
        }
    }
}
