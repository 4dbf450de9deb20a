//! See [`tollgate_fuzz::redis`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::redis::run(data));
