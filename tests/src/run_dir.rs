//! A directory for one run's configuration and logs, under `target/run`.
//!
//! It stays after the run, so that a failed test can be read up; runs that ended more than an hour ago are cleared
//! away when the next one begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// Creates a directory that no other run uses.
pub fn create() -> Result<PathBuf> {
    static CLEARED: Once = Once::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let root = crate::tools::target_dir().join("run");
    CLEARED.call_once(|| clear_old(&root));
    let dir = root.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    // A process id comes round again: what is there belongs to a run that has ended.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    Ok(dir)
}

/// Copies a file, or a folder with everything in it that no tool has made.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        fs::copy(from, to).with_context(|| format!("cannot copy `{}`", from.display()))?;
        return Ok(());
    }
    for entry in fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))? {
        let entry = entry?;
        if !MADE.iter().any(|made| entry.file_name() == *made) {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn clear_old(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let alive = name.split('-').next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        if !alive && age.is_some_and(|age| age > KEPT) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const MADE: [&str; 2] = ["target", "node_modules"];
const KEPT: Duration = Duration::from_hours(1);
