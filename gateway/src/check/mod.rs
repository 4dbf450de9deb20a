//! `tollgate check policy.json`, or a Worker's `wrangler.toml`: says whether a policy compiles, what each
//! route does and what is probably not meant, before a mesh has to find out; with `--request`, what becomes
//! of one request.

mod describe;
mod request;

use std::path::Path;

use anyhow::Context as _;

use tollgate_shared::policy::Policy;

use crate::cli::CheckArgs;

/// Reads a policy and prints what each route does, or what becomes of the request that is asked about.
/// Warnings go to stderr.
///
/// # Errors
/// The file cannot be read, or the policy does not compile; then every field at fault is named. With
/// `strict`, there are warnings.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let path = &args.policy;
    let text = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let json = match path.extension() {
        Some(extension) if extension == "toml" => policy_of_worker(&text, path)?,
        _ => text,
    };
    let policy = Policy::from_json(&json).map_err(|errors| {
        let lines = errors.iter().fold(String::new(), |lines, error| format!("{lines}\n  {error}"));
        anyhow::anyhow!("`{}` is not a valid policy:{lines}", path.display())
    })?;
    let asked = args.request.as_deref().map(|line| request::Asked::new(line, args)).transpose()?;
    print!("{}", asked.map_or_else(|| describe::describe(&policy), |asked| asked.explain(&policy)));
    let warnings = policy.warnings(&args.trust);
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    anyhow::ensure!(
        warnings.is_empty() || !args.strict,
        "`{}` has {} {}",
        path.display(),
        warnings.len(),
        if warnings.len() == 1 { "warning" } else { "warnings" }
    );
    Ok(())
}

/// The policy in a Worker's `wrangler.toml`, which is a variable of text.
fn policy_of_worker(text: &[u8], path: &Path) -> anyhow::Result<Vec<u8>> {
    let place = || format!("`{}`", path.display());
    let config: toml::Table =
        toml::from_str(std::str::from_utf8(text).with_context(place)?).with_context(place)?;
    let policy = config.get("vars").and_then(|vars| vars.get("TOLLGATE_POLICY"));
    let policy = policy.and_then(toml::Value::as_str).with_context(|| {
        format!("{} has no policy: expected a text named `TOLLGATE_POLICY` below `[vars]`", place())
    })?;
    Ok(policy.as_bytes().to_vec())
}
