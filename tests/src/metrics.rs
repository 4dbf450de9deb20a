//! Envoy's Prometheus page as values.

use std::collections::BTreeMap;

/// One line of the page.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Its lines, in order.
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Reads the lines of a page; comments and lines of another shape are passed over.
    pub fn parse(page: &str) -> Metrics {
        Metrics { samples: page.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// The sum over every sample of that name which carries all these labels; none is zero.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.named(name, labels).map(|sample| sample.value).sum()
    }

    /// Every sample of that name which carries all these labels.
    pub fn named<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        })
    }
}

/// `name{key="value",…} number`
fn sample(line: &str) -> Option<Sample> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match head.split_once('{') {
        None => (head, BTreeMap::new()),
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// `key="value",…` where a value escapes the quote, the backslash and the line end.
fn labels(mut rest: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_the_labels_that_are_not_asked_for() {
        let page = "# TYPE rate_limit_exceeded_total counter\n\
            rate_limit_exceeded_total{limit=\"per-client\",kind=\"deny\"} 7\n\
            rate_limit_exceeded_total{limit=\"daily\",kind=\"deny\"} 2\n\
            envoy_server_live{} 1\n\
            plain 1.5e3\n";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.sum("rate_limit_exceeded_total", &[]), 9.0);
        assert_eq!(metrics.sum("rate_limit_exceeded_total", &[("limit", "daily")]), 2.0);
        assert_eq!(metrics.sum("rate_limit_exceeded_total", &[("limit", "other")]), 0.0);
        assert_eq!(metrics.sum("plain", &[]), 1500.0);
        assert_eq!(metrics.sum("envoy_server_live", &[]), 1.0);
    }

    #[test]
    fn reads_escaped_label_values() {
        let metrics = Metrics::parse(r#"m{a="say \"hi\", {you}",b="\\"} 1"#);
        assert_eq!(metrics.sum("m", &[("a", r#"say "hi", {you}"#), ("b", "\\")]), 1.0);
    }
}
