//! A Redis with keys of every type, own ones and foreign ones, seen from a token that may use few
//! keys. What reaches it is held against it in three ways: which arguments Redis takes for keys,
//! which keys something happened to, and what it tells of them.
//!
//! The fuzz target for commands includes this file.

use redis::{Connection, cmd};

/// What own keys begin with.
pub(crate) const OWN: [&str; 3] = ["app:", "st", "ST"];

/// What Redis has to be started with.
pub(crate) const NOTIFY: [&str; 2] = ["--notify-keyspace-events", "EAm"];

/// What stands in foreign keys.
pub(crate) const SECRET: &str = "what-is-in-a-foreign-key";

const FENCE: &str = "the-fence";

pub(crate) fn is_own(key: &[u8]) -> bool {
    OWN.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
}

/// That Redis.
pub(crate) struct Stage {
    pub(crate) redis: Connection,
    /// What happens to keys, and which are looked up and not found.
    events: Connection,
}

impl Stage {
    /// Over two connections to it.
    pub(crate) fn new(redis: Connection, mut events: Connection) -> Self {
        let listen = cmd("PSUBSCRIBE").arg("__keyevent@*").arg(FENCE).get_packed_command();
        events.send_packed_command(&listen).expect("redis listens");
        for _ in 0..2 {
            events.recv_response().expect("redis answers");
        }
        Self { redis, events }
    }

    /// Puts every key into its place. What happens to them now is no matter.
    pub(crate) fn set(&mut self) {
        let mut pipe = redis::pipe();
        pipe.cmd("FLUSHALL");
        for prefix in ["app:", "victim:"] {
            let key = |name: &str| format!("{prefix}{name}");
            let text = if prefix == "app:" { "own" } else { SECRET };
            pipe.cmd("SET").arg(key("s")).arg(text);
            pipe.cmd("RPUSH").arg(key("l")).arg(&[text, "a", "b"]);
            pipe.cmd("SADD").arg(key("e")).arg(&[text, "a", "b"]);
            pipe.cmd("HSET").arg(key("h")).arg(&["f", text, "a", "1"]);
            pipe.cmd("GEOADD").arg(key("g")).arg(&["1", "1", text, "2", "2", "a"]);
            pipe.cmd("PFADD").arg(key("p")).arg(&[text, "a"]);
            pipe.cmd("XADD").arg(key("x")).arg(&["1-1", "f", text]);
            pipe.cmd("XGROUP").arg("CREATE").arg(key("x")).arg(&["streams", "0"]);
        }
        pipe.exec(&mut self.redis).expect("redis answers");
        self.happened();
    }

    /// The foreign arguments of a command that Redis takes for keys.
    pub(crate) fn foreign_keys<W: redis::ToRedisArgs>(&mut self, words: W) -> Vec<String> {
        let keys = cmd("COMMAND").arg("GETKEYS").arg(words).query::<Vec<Vec<u8>>>(&mut self.redis);
        let foreign = keys.unwrap_or_default().into_iter().filter(|key| !is_own(key));
        foreign.map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
    }

    /// What happened to foreign keys up to now, or that they were looked up and are not there: the
    /// event and the key.
    pub(crate) fn happened(&mut self) -> Vec<(String, String)> {
        cmd("PUBLISH").arg(FENCE).arg("").exec(&mut self.redis).expect("redis answers");
        let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        let mut happened = Vec::new();
        loop {
            let message = self.events.recv_response().expect("redis sends messages");
            let message: Vec<Vec<u8>> = redis::from_redis_value(message).expect("a message has parts");
            match &message[..] {
                [_, _, channel, _] if channel == FENCE.as_bytes() => return happened,
                [_, _, channel, key] if !is_own(key) => happened.push((text(channel), text(key))),
                _ => {}
            }
        }
    }
}
