//! What the holder of a token may do.

use super::Info;
use crate::resp::Arguments;

/// What applies to the commands of one token.
#[derive(Debug, Default)]
pub(crate) struct Rules {}

impl Rules {
    /// The error that answers a command which this token may not use.
    pub(super) fn refusal(&self, _arguments: Arguments<'_>, _info: Option<&Info>) -> Option<String> {
        None
    }
}
