//! The slot of a key: which 16384th of the keys it belongs to.

/// How many slots there are.
pub(super) const SLOTS: u16 = 16384;

/// The slot of `key`: of the part between the first `{` and the `}` behind it, if that holds something, else of all of it.
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % SLOTS
}

fn tag(key: &[u8]) -> Option<&[u8]> {
    let begin = memchr::memchr(b'{', key)? + 1;
    let rest = key.get(begin..)?;
    rest.get(..memchr::memchr(b'}', rest)?).filter(|tag| !tag.is_empty())
}

/// CRC-16/XMODEM, as the cluster specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let entry = TABLE.get(usize::from((crc >> 8) as u8 ^ byte)).copied().unwrap_or_default();
        (crc << 8) ^ entry
    })
}

/// What each byte does to the checksum.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, where an index out of bounds is an error"
)]
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    use super::*;

    /// The first is from the cluster specification, the others are what `CLUSTER KEYSLOT` answers.
    #[test]
    fn slots_of_known_keys() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [
            ("", 0),
            ("foo", 12182),
            ("{foo}.bar", 12182),
            ("x{foo}y{bar}", 12182),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("{", 4092),
            ("}{", 12793),
            ("{a", 10276),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[tokio::test]
    async fn slots_are_those_of_redis() {
        let dir = tollgate_tests::run_dir::create().unwrap();
        let (port, bus) = (tollgate_tests::ports::free().unwrap(), tollgate_tests::ports::free().unwrap());
        let flags = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
        let redis = tollgate_tests::redis::Redis::start_with(&dir, port, &flags).await.unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let mut runner = TestRunner::deterministic();
        let keys = prop_oneof![any::<Vec<u8>>(), "[{}a-c]{0,8}".prop_map(String::into_bytes)];
        for _ in 0..1000 {
            let key = keys.new_tree(&mut runner).unwrap().current();
            let asked = redis::cmd("CLUSTER").arg("KEYSLOT").arg(&key).query(&mut connection);
            let asked: u16 = asked.unwrap();
            assert_eq!(asked, slot(&key), "{}", key.escape_ascii());
        }
    }
}
