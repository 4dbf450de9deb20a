//! Fuzz targets for what parses bytes from outside: policies, requests and their tokens, the store's answers, and what
//! passes through the gateway.
//!
//! Each target is a function here, so that a test can replay its seeds; `fuzz_targets/` hands them to libFuzzer. Inputs
//! are text where they are not JSON already, so that seeds can be read and written by hand.
//!
//! | target | input | what must hold |
//! | --- | --- | --- |
//! | [`policy`] | a policy file | it gives errors of one line each, or decisions; every route can be reached |
//! | [`request`] | requests, one after the other | another spelling changes nothing, the guard is met whatever a server makes of the path; answers are clean and keep their word |
//! | [`subject`] | a cookie, a query and a body at once | what a lenient reader finds there counts as what it finds, or as a value that nobody has alone |
//! | [`reply`] | answers of the store | every operation has one outcome, and no outcome but the one that was answered |
//! | [`body`] | a request to the gateway | Redis is sent what was meant, or nothing |
//! | [`command`] | commands of a token that may use few keys | no other key is read, changed or told of by a real Redis |
//! | [`jwt`] | a token, or a set of keys | what is signed is what was read; what a key signed, changed anywhere, no key has signed |
//! | [`guards`] | requests, answers, operators, a store that fails | decisions and answers are clean; a lock has one holder at a time |
//! | [`redis`] | what Redis sends the gateway | every answer is JSON and holds the replies that came, however they came |

pub mod body;
pub mod check;
pub mod command;
pub mod guards;
pub mod head;
pub mod jwt;
pub mod oracle;
pub mod policy;
pub mod readings;
pub mod redis;
pub mod reply;
pub mod request;
pub mod spelling;
pub mod subject;

/// FNV-1a, 64 bits: choices that depend on nothing but the input.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
