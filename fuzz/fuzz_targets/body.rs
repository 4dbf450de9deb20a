//! See [`tollgate_fuzz::body`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::body::run(data));
