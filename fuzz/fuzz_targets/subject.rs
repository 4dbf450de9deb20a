//! See [`tollgate_fuzz::subject`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::subject::run(data));
