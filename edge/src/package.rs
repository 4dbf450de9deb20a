//! What the npm package calls.
