//! An nginx that answers everything at once: what is behind those that are measured.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tollgate_tests::ports;
use tollgate_tests::process::{Process, Ready, Spec};

use super::programs;

/// Starts it, and returns where it listens.
pub(super) async fn start(dir: &Path) -> Result<(Process, SocketAddr)> {
    let address = ports::local(ports::free()?);
    let config = dir.join("nginx.conf");
    let text = format!(
        "daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.error.log; worker_processes 1;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000;\n\
         client_body_temp_path {dir}/nginx.body; proxy_temp_path {dir}/nginx.proxy; fastcgi_temp_path {dir}/nginx.fcgi;\n\
         uwsgi_temp_path {dir}/nginx.uwsgi; scgi_temp_path {dir}/nginx.scgi;\n\
         server {{ listen {address}; location / {{ return 200 'ok\\n'; }} }} }}\n",
        dir = dir.display()
    );
    std::fs::write(&config, text)?;
    let spec = Spec {
        name: "nginx".into(),
        program: programs::NGINX.path()?,
        args: vec!["-c".into(), config.into()],
        env: vec![],
        dir: dir.to_path_buf(),
        ready: Ready::http(address, "/"),
        ready_within: Duration::from_secs(5),
    };
    Ok((Process::start(spec).await?, address))
}
