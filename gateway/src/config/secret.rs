//! Where secrets come from: the environment, or a file. Errors name the place, never what stands there.

use std::path::Path;

use anyhow::{Context as _, ensure};

/// Where something may be written; the first that is given counts.
pub(super) struct Places<'a> {
    /// What it is called in errors.
    pub(super) what: &'a str,
    /// Itself.
    pub(super) inline: Option<&'a str>,
    /// The name of a variable.
    pub(super) env: Option<&'a str>,
    /// A file.
    pub(super) file: Option<&'a Path>,
}

impl Places<'_> {
    /// What stands there, and where that is; nothing when no place is given.
    pub(super) fn read(
        &self,
        var: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Option<(String, String)>> {
        let Self { what, inline, env, file } = self;
        let (text, place) = match (inline, file, env) {
            (Some(text), _, _) => ((*text).to_owned(), "the configuration".to_owned()),
            (None, Some(path), _) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {what} from the file `{}`", path.display()))?;
                (text, format!("the file `{}`", path.display()))
            }
            (None, None, Some(name)) => {
                let text = var(name).with_context(|| {
                    format!("{what} is to be in the environment variable `{name}`, which is not set: set it")
                })?;
                (text, format!("the environment variable `{name}`"))
            }
            (None, None, None) => return Ok(None),
        };
        let text = text.trim();
        ensure!(!text.is_empty(), "{what} is empty in {place}");
        Ok(Some((text.to_owned(), place)))
    }
}
