//! See [`tollgate_fuzz::reply`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::reply::run(data));
