//! Programs that only the system's packages carry.

use std::path::PathBuf;
use std::process::Command;

/// Where a program is, if it is installed.
pub(super) fn which(program: &str) -> Option<PathBuf> {
    let output = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().ok()?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!path.is_empty()).then(|| path.into())
}
