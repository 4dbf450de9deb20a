//! See [`tollgate_fuzz::command`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::command::run(data));
