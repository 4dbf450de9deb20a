//! The configuration file: TOML with the names of the flags.

use std::path::Path;

use anyhow::{Context as _, anyhow};

use super::settings::Settings;

/// Reads a file. An error names the file, the line, the field, what was found and what was expected.
pub(super) fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration `{}`", path.display()))?;
    parse(&text).map_err(|error| anyhow!("`{}`, {error}", path.display()))
}

fn parse(text: &str) -> Result<Settings, String> {
    let located = |error: &toml::de::Error, field: &str| {
        let line = 1 + error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(0, |before| before.bytes().filter(|byte| *byte == b'\n').count());
        let field = if matches!(field, "" | ".") { String::new() } else { format!(", `{field}`") };
        format!("line {line}{field}: {}", error.message().replace('\n', ", "))
    };
    let document = toml::Deserializer::parse(text).map_err(|error| located(&error, ""))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let field = error.path().to_string();
        located(error.inner(), &field)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_line_and_field() {
        for (text, expected) in [
            ("connections = 65", "line 1, `connections`: found `65`, expected a whole number from 1 to 64"),
            ("\nmax_body = '1B'", "line 2, `max_body`: found `1B`, expected a size from 1KiB to 512MiB"),
            ("idle_timeout = 5", "line 1, `idle_timeout`: found `5`, expected a span from 1s to 24h"),
            (
                "threads = '2'\nconections = 1",
                "line 2, `conections`: unknown field `conections`, expected one of `redis`",
            ),
            (
                "[[tokens]]\nname = 'a'\nreadonly = true",
                "line 3, `tokens[0].readonly`: unknown field `readonly`",
            ),
            (
                "[[tokens]]\nname = 'a'\n[[tokens]]\nread_only = true",
                "line 3, `tokens[1]`: missing field `name`",
            ),
            ("log_format = 'xml'", "line 1, `log_format`: unknown variant `xml`, expected `text` or `json`"),
            ("no_auth = 1", "line 1, `no_auth`: invalid type: integer `1`, expected a boolean"),
            ("listen = 8079", "line 1, `listen`: found `8079`, expected an address and a port"),
            ("redis = [", "line 1: "),
        ] {
            let error = parse(text).map(drop).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
