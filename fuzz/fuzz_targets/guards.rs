//! See [`tollgate_fuzz::guards`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::guards::run(data));
