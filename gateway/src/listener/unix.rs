//! Unix sockets, which are files: one that a killed process left behind is in the way of the next.

use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::PathBuf;

use tokio::net::UnixListener;

use crate::config::Mode;

/// The file of a socket that is listened on, which is removed with this value.
#[derive(Debug)]
pub(crate) struct Path {
    path: PathBuf,
    /// What the file was when it was made: another process may have put its own in its place.
    inode: u64,
}

/// Listens on `path`. A socket that nobody listens on is removed first; anything else there is left alone.
pub(super) fn bind(path: &std::path::Path, mode: Mode) -> io::Result<(UnixListener, Path)> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path)? => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.0))?;
    let inode = std::fs::symlink_metadata(path)?.ino();
    Ok((listener, Path { path: path.to_owned(), inode }))
}

fn is_stale(path: &std::path::Path) -> io::Result<bool> {
    let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
    Ok(is_socket
        && net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

impl Deref for Path {
    type Target = std::path::Path;

    fn deref(&self) -> &std::path::Path {
        &self.path
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            // What cannot be removed is found stale by the next process.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
