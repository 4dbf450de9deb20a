//! `build`: the gateway, and the filter trimmed and inspected.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tollgate_tests::tools;

use crate::step;
use crate::wasm::Module;

/// Builds both.
pub(crate) fn run() -> Result<()> {
    gateway()?;
    step::run("build the filter", &mut filter(), FIX)?;
    let built = tools::target_dir().join("wasm32-wasip1/wasm/tollgate_filter.wasm");
    let trimmed = tools::target_dir().join("tollgate_filter.wasm");
    let size = step::timed("trim and inspect the filter", || trim(&built, &trimmed))?;
    println!("           the filter: {size}");
    Ok(())
}

/// Builds the gateway alone.
pub(crate) fn gateway() -> Result<()> {
    let mut cargo = step::cargo(["build", "--release", "--package", "tollgate-gateway"]);
    step::run("build the gateway", &mut cargo, FIX).map(drop)
}

/// Builds the filter whose clock tests turn. It has a target directory of its own, so that neither build undoes the other.
pub(crate) fn test_clock() -> Result<()> {
    let directory = tools::target_dir().join("test-clock");
    let mut command = filter();
    command.args(["--features", "test-clock", "--target-dir"]).arg(&directory);
    step::run("build the filter with a clock for tests", &mut command, FIX)?;
    let built = directory.join("wasm32-wasip1/wasm/tollgate_filter.wasm");
    trim(&built, &tools::target_dir().join("tollgate_filter_test_clock.wasm"))?;
    Ok(())
}

/// Checks the policy of `wrangler.toml`, and builds the Worker beside it.
pub(crate) fn worker() -> Result<()> {
    gateway()?;
    let mut check = Command::new(tools::gateway()?);
    check.arg("check").arg(tools::workspace().join("wrangler.toml"));
    step::run(
        "check the policy of the Worker",
        &mut check,
        "fix: change `wrangler.toml` as the message says",
    )?;
    let directory = tools::worker()?;
    worker_into(&directory, &[])?;
    let mut size = 0;
    for module in [tools::WORKER_MAIN, "index.js", "index_bg.wasm"] {
        size += gzip_size(&directory.join(module))?;
    }
    ensure!(
        size <= MOST_ZIPPED_WORKER_BYTES,
        "the Worker has {size} bytes gzipped, at most {MOST_ZIPPED_WORKER_BYTES} are allowed"
    );
    println!("           the Worker: gzip {size}");
    Ok(())
}

/// Builds the Worker whose clock tests turn.
pub(crate) fn worker_test_clock() -> Result<()> {
    worker_into(&tools::worker_test_clock()?, &["--features", "test-clock"])
}

fn worker_into(directory: &Path, more: &[&str]) -> Result<()> {
    let mut build = Command::new(tools::WORKER_BUILD.path()?);
    build.args(["--profile", "edge", "--out-dir"]).arg(directory).args(more);
    build.envs(tools::edge_environment()?).current_dir(tools::workspace().join("edge"));
    let name = if more.is_empty() { "build the Worker" } else { "build the Worker with a clock for tests" };
    step::run(name, &mut build, FIX)?;
    let entry = tools::workspace().join("edge/src/worker").join(tools::WORKER_MAIN);
    fs::copy(&entry, directory.join(tools::WORKER_MAIN))
        .with_context(|| format!("cannot copy `{}`", entry.display()))?;
    Ok(())
}

/// Builds the filter's package as it is shipped; more arguments may follow.
pub(crate) fn filter() -> Command {
    step::cargo(["build", "--profile", "wasm", "--target", "wasm32-wasip1", "--package", "tollgate-filter"])
}

/// Writes the filter with only the exports in use; returns its size in words.
fn trim(built: &Path, trimmed: &Path) -> Result<String> {
    let bytes = fs::read(built).with_context(|| format!("cannot read `{}`", built.display()))?;
    let module =
        Module::parse(&bytes).with_context(|| format!("`{}` is not wasm as expected", built.display()))?;
    let imports = module.imports()?;
    let strangers: Vec<&String> =
        imports.iter().filter(|import| !IMPORTS.contains(&import.as_str())).collect();
    ensure!(
        strangers.is_empty(),
        "the filter imports {strangers:?}: use what the host has offered so far, or add it to `IMPORTS` with a reason"
    );
    let found = module.exports()?;
    let missing: Vec<&str> =
        INSTEAD.iter().map(|(ours, _)| *ours).filter(|ours| !found.contains(ours)).collect();
    ensure!(missing.is_empty(), "the filter does not export {missing:?}");
    let name = |export: &str| {
        let ours = INSTEAD.iter().find(|(ours, _)| *ours == export).map(|(_, name)| *name);
        ours.or_else(|| EXPORTS.into_iter().find(|name| *name == export))
    };
    let kept = module.with_exports(&name)?;
    ensure!(
        kept.len() <= MOST_BYTES,
        "the filter has {} bytes, at most {MOST_BYTES} are allowed",
        kept.len()
    );
    // Envoys may be reading the last one: replace it in one move.
    let beside = trimmed.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&beside, &kept)?;
    fs::rename(&beside, trimmed)?;
    let exports = found.len();
    let kept_exports = Module::parse(&kept)?.exports()?.len();
    let zipped =
        gzip_size(trimmed).map_or_else(|_| "gzip is not installed".into(), |size| format!("gzip {size}"));
    let size = format!(
        "{} bytes, {zipped}, {} imports, {kept_exports} of {exports} exports",
        kept.len(),
        imports.len()
    );
    Ok(size)
}

/// The bytes of a file after `gzip -9`.
pub(crate) fn gzip_size(path: &Path) -> Result<usize> {
    let output = Command::new("gzip").args(["-9", "--stdout"]).arg(path).stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "gzip failed");
    Ok(output.stdout.len())
}

/// What helps when a build fails.
pub(crate) const FIX: &str = "fix: the compiler says what is wrong above";

/// What the filter may ask of its host. Envoy refuses to load a module with an import that it does not know, so what is
/// here was seen to load in the pinned one. The SDK's traits pull in most calls of the ABI, whether we make them or not.
const IMPORTS: [&str; 40] = [
    "env.proxy_add_header_map_value",
    "env.proxy_call_foreign_function",
    "env.proxy_close_stream",
    "env.proxy_continue_stream",
    "env.proxy_define_metric",
    "env.proxy_dequeue_shared_queue",
    "env.proxy_done",
    "env.proxy_enqueue_shared_queue",
    "env.proxy_get_buffer_bytes",
    "env.proxy_get_current_time_nanoseconds",
    "env.proxy_get_header_map_pairs",
    "env.proxy_get_header_map_value",
    "env.proxy_get_property",
    "env.proxy_get_shared_data",
    "env.proxy_get_status",
    "env.proxy_grpc_call",
    "env.proxy_grpc_cancel",
    "env.proxy_grpc_close",
    "env.proxy_grpc_send",
    "env.proxy_grpc_stream",
    "env.proxy_http_call",
    "env.proxy_increment_metric",
    "env.proxy_log",
    "env.proxy_record_metric",
    "env.proxy_register_shared_queue",
    "env.proxy_remove_header_map_value",
    "env.proxy_replace_header_map_value",
    "env.proxy_resolve_shared_queue",
    "env.proxy_send_local_response",
    "env.proxy_set_buffer_bytes",
    "env.proxy_set_effective_context",
    "env.proxy_set_header_map_pairs",
    "env.proxy_set_property",
    "env.proxy_set_shared_data",
    "env.proxy_set_tick_period_milliseconds",
    "wasi_snapshot_preview1.environ_get",
    "wasi_snapshot_preview1.environ_sizes_get",
    "wasi_snapshot_preview1.fd_write",
    "wasi_snapshot_preview1.proc_exit",
    "wasi_snapshot_preview1.random_get",
];

/// What the host may call. The SDK exports every callback, and the host calls each one that it finds: leaving out those
/// that do nothing saves 2.5 µs per request.
const EXPORTS: [&str; 16] = [
    "memory",
    "_initialize",
    "_start",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "malloc",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_tick",
    "proxy_on_queue_ready",
    "proxy_on_context_create",
    "proxy_on_request_trailers",
    "proxy_on_response_body",
    "proxy_on_response_trailers",
    "proxy_on_http_call_response",
    "proxy_on_delete",
];

/// Ours that the host finds under the names of the SDK's: see `filter/src/exports.rs`.
const INSTEAD: [(&str, &str); 3] = [
    ("tollgate_on_request_headers", "proxy_on_request_headers"),
    ("tollgate_on_request_body", "proxy_on_request_body"),
    ("tollgate_on_response_headers", "proxy_on_response_headers"),
];

/// The Worker's bound, after `gzip -9`: what it has, and 3 %. The control path and its description are 18 kB of it; what reads
/// bodies, cookies and paths as upstreams do is another 22 kB.
const MOST_ZIPPED_WORKER_BYTES: usize = 294_000;

/// The filter's bound, uncompressed: what it has, and 3 %. A sixth of it verifies signatures, in a fraction of a millisecond
/// each; 67 kB are the control path, of which 18 kB are its description and most of the rest reads bodies; 16 kB fetch keys
/// and read them; 56 kB read paths, bodies, cookies and parameters as upstreams do, and what `jwt_authn` has verified. All of
/// it with opt-level "s" would be a fifth smaller, and slower for every request.
const MOST_BYTES: usize = 1_100_000;
