//! Replays the seeds, and with them everything a fuzzer ever found.

use std::fs;
use std::path::Path;

#[test]
fn policies_hold() {
    replay("policy", tollgate_fuzz::policy::run);
    // The policies that we ship are the best seeds.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    tollgate_fuzz::policy::run(&fs::read(root.join("policy.json")).unwrap());
    run_all(&root.join("tests/policies"), tollgate_fuzz::policy::run);
    tollgate_fuzz::policy::run(tollgate_fuzz::request::RICH);
}

#[test]
fn requests_hold() {
    replay("request", tollgate_fuzz::request::run);
}

#[test]
fn subjects_hold() {
    replay("subject", tollgate_fuzz::subject::run);
}

#[test]
fn guards_hold() {
    replay("guards", tollgate_fuzz::guards::run);
}

#[test]
fn tokens_hold() {
    replay("jwt", tollgate_fuzz::jwt::run);
}

#[test]
fn replies_hold() {
    replay("reply", tollgate_fuzz::reply::run);
}

#[test]
fn bodies_hold() {
    replay("body", tollgate_fuzz::body::run);
}

#[test]
fn what_redis_sends_holds() {
    replay("redis", tollgate_fuzz::redis::run);
}

fn replay(target: &str, run: fn(&[u8])) {
    run_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target), run);
}

fn run_all(dir: &Path, run: fn(&[u8])) {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds in {}", dir.display());
    for file in files {
        println!("{}", file.display());
        run(&fs::read(&file).unwrap());
    }
}
