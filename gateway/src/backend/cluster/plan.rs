//! What becomes of a request in a cluster: its commands as parts, each for one node, and how answers come of them.
//!
//! A plan is made before anything is sent and performs nothing. Parts are in the order of the request; those that name
//! keys and those that concern the whole keyspace are kept in separate stages, one after the other, because a part that is
//! redirected comes later than it was meant to, and must not come behind a `FLUSHALL` that follows it in the request.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::fold::How;
use super::map::{Map, Shard};
use super::scan;
use super::slot::slot;
use crate::backend::may_be_read_from_replica;
use crate::backend::node::Node;
use crate::command::{Access, Batch, Fold, Info, Route};
use crate::resp::{Arguments, write_argument, write_command};

/// A request, taken apart.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One for each command.
    pub(super) recipes: Vec<Recipe>,
    /// What is sent, in the order of the request.
    pub(super) parts: Vec<Part>,
}

/// How a command is answered.
#[derive(Debug)]
pub(super) enum Recipe {
    /// With this, at once.
    Given(Bytes),
    /// As this part is.
    Part(usize),
    /// With what comes of these parts.
    Fold(Range<usize>, How),
}

/// A command, or what one node gets of it.
#[derive(Debug)]
pub(super) struct Part {
    /// As it is sent.
    pub(super) resp: Bytes,
    /// Where that is in the buffer of the request; empty when it was written anew.
    pub(super) range: Range<usize>,
    /// To whom it is sent.
    pub(super) aim: Aim,
    /// Parts of a stage are sent when those of the stage before are answered.
    pub(super) stage: usize,
    /// Whether it only reads.
    pub(super) reads: bool,
    /// Whether a replica may answer it.
    pub(super) for_replica: bool,
    info: Option<&'static Info>,
}

/// To whom a part is sent.
#[derive(Debug)]
pub(super) enum Aim {
    /// Whoever serves this slot.
    Slot(u16),
    /// Any master.
    Anyone,
    /// This node.
    Node(Arc<Node>),
}

/// Where a command belongs.
#[derive(Debug, PartialEq, Eq)]
enum Class {
    /// To whoever serves this slot.
    Slot(u16),
    /// To any master: it has no keys.
    Anyone,
    /// Nowhere: its keys lie in several slots.
    Crossing,
    /// Slot by slot: these arguments are keys, each with those up to the next.
    Split(Vec<usize>),
    /// To one master, always the same, so that answers can be compared.
    First,
    /// To all masters.
    Masters(How),
    /// To all masters, and to the replicas that are read from.
    Everyone(How),
    /// To one master after the other, call by call.
    Scan,
}

impl Plan {
    /// Takes a request apart. `map` has a shard at least.
    pub(super) fn new(batch: &Batch, map: &Map) -> Self {
        let mut plan = Self::default();
        let (mut stage, mut was_wide) = (0, None);
        let mut arguments: Vec<&[u8]> = Vec::new();
        for sending in batch.sending() {
            let resp = batch.command(sending);
            let range = sending.range();
            arguments.clear();
            arguments.extend(batch.arguments(sending));
            let (info, class) = (sending.info, classify(sending.info, &arguments));
            let is_wide = is_wide(info, &class);
            if was_wide.is_some_and(|was_wide| was_wide != is_wide) {
                stage += 1;
            }
            was_wide = Some(is_wide);
            let reads = info.is_some_and(|info| info.access == Access::Read);
            let for_replica = may_be_read_from_replica(sending);
            let part = |resp: Bytes, range, aim| Part { resp, range, aim, stage, reads, for_replica, info };
            let begin = plan.parts.len();
            let recipe = match class {
                Class::Slot(slot) => {
                    plan.parts.push(part(resp, range, Aim::Slot(slot)));
                    Recipe::Part(begin)
                }
                Class::Anyone => {
                    plan.parts.push(part(resp, range, Aim::Anyone));
                    Recipe::Part(begin)
                }
                Class::First => {
                    plan.parts.push(part(resp, range, first(map)));
                    Recipe::Part(begin)
                }
                Class::Crossing => Recipe::Given(Bytes::from_static(CROSSSLOT)),
                Class::Split(keys) => match split(&arguments, &keys, info) {
                    Ok((pieces, how)) => {
                        plan.parts.extend(
                            pieces.into_iter().map(|(slot, resp)| part(resp.into(), 0..0, Aim::Slot(slot))),
                        );
                        Recipe::Fold(begin..plan.parts.len(), how)
                    }
                    Err(error) => Recipe::Given(error.into()),
                },
                Class::Masters(how) => {
                    let masters = map.shards().iter().map(|shard| &shard.master);
                    plan.parts.extend(
                        masters.map(|node| part(resp.clone(), range.clone(), Aim::Node(Arc::clone(node)))),
                    );
                    Recipe::Fold(begin..plan.parts.len(), how)
                }
                Class::Everyone(how) => {
                    let nodes = map.shards().iter().flat_map(everyone);
                    plan.parts.extend(
                        nodes.map(|node| part(resp.clone(), range.clone(), Aim::Node(Arc::clone(node)))),
                    );
                    Recipe::Fold(begin..plan.parts.len(), how)
                }
                Class::Scan => match scan::begin(&arguments, map) {
                    Ok(scan::Page { node, slot, resp }) => {
                        plan.parts.push(part(resp.into(), 0..0, Aim::Node(node)));
                        Recipe::Fold(begin..plan.parts.len(), How::Cursor(slot))
                    }
                    Err(error) => Recipe::Given(Bytes::from_static(error)),
                },
            };
            plan.recipes.push(recipe);
        }
        plan
    }

    /// How many stages there are.
    pub(super) fn stages(&self) -> usize {
        self.parts.last().map_or(0, |part| part.stage + 1)
    }

    /// Whether the parts are the commands, one by one, and can all be sent at once.
    pub(super) fn is_plain(&self) -> bool {
        self.stages() == 1 && self.recipes.iter().all(|recipe| matches!(recipe, Recipe::Part(_)))
    }
}

impl Part {
    /// Whether one of them must not overtake the other: they may share a key, and do not both only read it.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        match (&self.aim, &other.aim) {
            (Aim::Slot(one), Aim::Slot(another)) if one == another => {}
            _ => return false,
        }
        if self.reads && other.reads {
            return false;
        }
        let (mine, theirs) = (self.keys(), other.keys());
        mine.iter().any(|key| theirs.contains(key))
    }

    fn keys(&self) -> Vec<&[u8]> {
        let arguments: Vec<&[u8]> = Arguments::of(&self.resp).collect();
        let positions = key_positions(self.info, &arguments);
        positions.into_iter().filter_map(|position| arguments.get(position).copied()).collect()
    }
}

/// The slot that all keys of a transaction are in, if it has keys; or the error that answers it.
pub(super) fn slot_of_transaction(batch: &Batch) -> Result<Option<u16>, String> {
    let mut common = None;
    for sending in batch.sending() {
        let arguments: Vec<&[u8]> = batch.arguments(sending).collect();
        match classify(sending.info, &arguments) {
            Class::Slot(_) if sending.info.is_some_and(is_publish) => {}
            Class::Slot(slot) if common.is_none_or(|common| common == slot) => common = Some(slot),
            Class::Slot(_) | Class::Crossing | Class::Split(_) => {
                return Err(CROSSSLOT_TEXT.into());
            }
            Class::Anyone | Class::First => {}
            Class::Masters(_) | Class::Everyone(_) | Class::Scan => {
                let name = String::from_utf8_lossy(arguments.first().copied().unwrap_or_default());
                return Err(format!(
                    "ERR '{name}' concerns every node of the cluster and cannot be part of a transaction"
                ));
            }
        }
    }
    Ok(common)
}

fn classify(info: Option<&'static Info>, arguments: &[&[u8]]) -> Class {
    let how = match info.map(|info| (info.route, info.fold, info.name)) {
        None | Some((Route::Keys | Route::MultiShard, ..)) => return by_keys(info, arguments),
        Some((Route::Special, ..)) => return Class::Scan,
        // Every node would say the same.
        Some((_, _, "PING")) => return Class::Anyone,
        Some((_, _, "RANDOMKEY")) => How::AnyValue,
        // What one node says of itself makes no sense together with what another says.
        Some((_, Fold::Special, _)) => return Class::First,
        Some((_, Fold::Join, _)) => How::Concat,
        Some((_, Fold::AllSucceeded, _)) => How::AllSucceeded,
        Some((_, Fold::OneSucceeded, _)) => How::OneSucceeded,
        Some((_, Fold::Sum, _)) => How::Sum,
        Some((_, Fold::Least, _)) => How::Least,
        Some((_, Fold::AllTrue, _)) => How::AllTrue,
    };
    if info.is_some_and(|info| info.route == Route::AllNodes) {
        Class::Everyone(how)
    } else {
        Class::Masters(how)
    }
}

fn by_keys(info: Option<&'static Info>, arguments: &[&[u8]]) -> Class {
    // Any node would take it, but messages that enter at different nodes overtake each other.
    if info.is_some_and(is_publish) {
        return arguments.get(1).map_or(Class::Anyone, |channel| Class::Slot(slot(channel)));
    }
    if let Some(key) = info.and_then(Info::only_key).and_then(|place| arguments.get(place)) {
        return Class::Slot(slot(key));
    }
    let positions = key_positions(info, arguments);
    let mut slots = positions.iter().filter_map(|position| arguments.get(*position)).map(|key| slot(key));
    let Some(first) = slots.next() else { return Class::Anyone };
    if slots.all(|slot| slot == first) {
        Class::Slot(first)
    } else if info.is_some_and(|info| info.route == Route::MultiShard) {
        Class::Split(positions)
    } else {
        Class::Crossing
    }
}

fn is_publish(info: &Info) -> bool {
    info.name == "PUBLISH"
}

/// Which arguments are keys. A command that nobody knows is taken to have one, behind its name.
fn key_positions(info: Option<&'static Info>, arguments: &[&[u8]]) -> Vec<usize> {
    match info {
        Some(info) => info.keys(arguments).positions,
        None if arguments.len() > 1 => vec![1],
        None => Vec::new(),
    }
}

/// Whether a command reads or changes keys without naming them.
fn is_wide(info: Option<&Info>, class: &Class) -> bool {
    matches!(class, Class::Masters(_) | Class::Everyone(_) | Class::Scan)
        && info.is_some_and(|info| info.access != Access::Other)
}

/// A command for one slot.
type Piece = (u16, Vec<u8>);

/// The commands that each slot gets instead of this one, which has two keys or more, and how to put their answers
/// together; or the error that Redis would answer, but only after some of the commands had run.
fn split(arguments: &[&[u8]], keys: &[usize], info: Option<&Info>) -> Result<(Vec<Piece>, How), Vec<u8>> {
    let name = arguments.first().copied().unwrap_or_default();
    let step = keys.iter().zip(keys.iter().skip(1)).map(|(key, next)| next - key).next().unwrap_or(1);
    if keys.len() * step + 1 != arguments.len() {
        let name = String::from_utf8_lossy(name).to_lowercase();
        return Err(format!("-ERR wrong number of arguments for '{name}' command\r\n").into_bytes());
    }
    let mut places = BTreeMap::new();
    let mut pieces: Vec<(u16, usize, Vec<u8>)> = Vec::new();
    let mut order = Vec::with_capacity(keys.len());
    for group in arguments.get(1..).unwrap_or_default().chunks(step) {
        let slot = slot(group.first().copied().unwrap_or_default());
        let place = *places.entry(slot).or_insert_with(|| {
            pieces.push((slot, 0, Vec::new()));
            pieces.len() - 1
        });
        order.push(place);
        if let Some((_, count, body)) = pieces.get_mut(place) {
            *count += group.len();
            group.iter().for_each(|argument| write_argument(body, argument));
        }
    }
    let commands = pieces.into_iter().map(|(slot, count, body)| {
        let mut resp = Vec::with_capacity(body.len() + name.len() + 32);
        write_command(&mut resp, count + 1);
        write_argument(&mut resp, name);
        resp.extend_from_slice(&body);
        (slot, resp)
    });
    let how = match info.map(|info| info.fold) {
        Some(Fold::Join) => How::Values(order),
        Some(Fold::Sum) => How::Sum,
        _ => How::AllSucceeded,
    };
    Ok((commands.collect(), how))
}

fn first(map: &Map) -> Aim {
    map.shard_from(0).map_or(Aim::Anyone, |(_, shard)| Aim::Node(Arc::clone(&shard.master)))
}

/// A replica that is down now learns what it has to from its master, or from the client that asks again.
fn everyone(shard: &Shard) -> impl Iterator<Item = &Arc<Node>> {
    shard.replicas.iter().filter(|replica| replica.is_up()).chain([&shard.master])
}

const CROSSSLOT: &[u8] = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n";
const CROSSSLOT_TEXT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::{Reader, command};

    fn class(words: &str) -> Class {
        let words: Vec<&str> = words.split(' ').collect();
        let resp = command(&words);
        let arguments: Vec<&[u8]> = Arguments::of(&resp).collect();
        classify(Info::of(Arguments::of(&resp)), &arguments)
    }

    #[test]
    fn commands_belong_where_their_keys_are() {
        let foo = slot(b"foo");
        for (words, expected) in [
            ("GET foo", Class::Slot(foo)),
            ("get foo", Class::Slot(foo)),
            ("MGET foo {foo}1 {foo}2", Class::Slot(foo)),
            ("MGET foo bar", Class::Split(vec![1, 2])),
            ("MSET foo 1 bar 2", Class::Split(vec![1, 3])),
            ("MSETNX foo 1 bar 2", Class::Crossing),
            ("RENAME foo bar", Class::Crossing),
            ("EVAL return 2 foo bar", Class::Crossing),
            ("EVAL return 1 foo bar", Class::Slot(foo)),
            ("EVAL return 0 foo bar", Class::Anyone),
            ("XREAD STREAMS foo bar 0 0", Class::Crossing),
            ("SORT foo BY x", Class::Slot(foo)),
            ("MODULE.COMMAND foo bar", Class::Slot(foo)),
            ("MODULE.COMMAND", Class::Anyone),
            ("PUBLISH foo bar", Class::Slot(foo)),
            ("SPUBLISH foo bar", Class::Slot(foo)),
            ("TIME", Class::Anyone),
            ("PING", Class::Anyone),
            ("DEL", Class::Anyone),
            ("INFO", Class::First),
            ("MEMORY DOCTOR", Class::First),
            ("MEMORY USAGE foo", Class::Slot(foo)),
            ("LATENCY LATEST", Class::First),
            ("DBSIZE", Class::Masters(How::Sum)),
            ("KEYS *", Class::Masters(How::Concat)),
            ("FLUSHALL", Class::Masters(How::AllSucceeded)),
            ("RANDOMKEY", Class::Masters(How::AnyValue)),
            ("SCRIPT LOAD x", Class::Everyone(How::AllSucceeded)),
            ("SCRIPT EXISTS x", Class::Masters(How::AllTrue)),
            ("SCRIPT KILL", Class::Masters(How::OneSucceeded)),
            ("SLOWLOG LEN", Class::Everyone(How::Sum)),
            ("SCAN 0", Class::Scan),
        ] {
            assert_eq!(class(words), expected, "{words}");
        }
    }

    #[test]
    fn a_command_that_cannot_be_split_evenly_is_answered_as_redis_would() {
        let error = split(&[b"MSET", b"a", b"1", b"b"], &[1, 3], Info::find(b"MSET")).unwrap_err();
        assert_eq!(error, b"-ERR wrong number of arguments for 'mset' command\r\n");
    }

    #[test]
    fn parts_conflict_when_they_share_a_key_and_one_writes() {
        let part = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            let resp: Bytes = command(&words).into();
            let info = Info::of(Arguments::of(&resp));
            let arguments: Vec<&[u8]> = Arguments::of(&resp).collect();
            let Class::Slot(slot) = classify(info, &arguments) else { panic!("{words:?}") };
            let reads = info.is_some_and(|info| info.access == Access::Read);
            Part { resp, range: 0..0, aim: Aim::Slot(slot), stage: 0, reads, for_replica: false, info }
        };
        for (one, another, expected) in [
            ("SET a 1", "GET a", true),
            ("GET a", "SET a 1", true),
            ("GET a", "STRLEN a", false),
            ("SET a 1", "SET b 1", false),
            ("SET {t}a 1", "SET {t}b 1", false),
            ("SET {t}a 1", "MGET {t}b {t}a", true),
            ("EVAL x 1 a", "GET a", true),
            ("UNHEARDOF a", "UNHEARDOF a", true),
        ] {
            assert_eq!(part(one).conflicts_with(&part(another)), expected, "{one}, {another}");
        }
    }

    proptest! {
        #[test]
        fn a_split_command_holds_the_same_keys_in_the_same_order_for_each_slot(
            keys in prop::collection::vec("[a-e]{1,2}|\\{[ab]\\}[a-z]", 2..20),
        ) {
            for (name, step) in [("MGET", 1), ("MSET", 2), ("DEL", 1)] {
                let mut words = vec![name.to_owned()];
                for (number, key) in keys.iter().enumerate() {
                    words.push(key.clone());
                    words.extend((1..step).map(|_| number.to_string()));
                }
                let arguments: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                let positions: Vec<usize> = (1..arguments.len()).step_by(step).collect();
                let (pieces, how) = split(&arguments, &positions, Info::find(name.as_bytes())).unwrap();
                let mut rest: BTreeMap<u16, Vec<&[u8]>> = BTreeMap::new();
                for group in arguments[1..].chunks(step) {
                    rest.entry(slot(group[0])).or_default().extend(group);
                }
                prop_assert_eq!(pieces.len(), rest.len());
                for (slot, resp) in &pieces {
                    prop_assert_eq!(Reader(resp).reply().unwrap().len(), resp.len());
                    let mut expected = vec![name.as_bytes()];
                    expected.extend(&rest[slot]);
                    prop_assert_eq!(Arguments::of(resp).collect::<Vec<_>>(), expected);
                }
                if let How::Values(order) = how {
                    let slots: Vec<u16> = order.iter().map(|place| pieces[*place].0).collect();
                    prop_assert_eq!(slots, keys.iter().map(|key| slot(key.as_bytes())).collect::<Vec<_>>());
                }
            }
        }
    }
}
