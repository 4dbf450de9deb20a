//! The text that Prometheus reads.

use std::fmt::Write as _;

use super::histogram::Histogram;

/// Metrics as text.
#[derive(Debug, Default)]
pub(crate) struct Text {
    text: String,
    /// The name of the family that samples belong to.
    family: &'static str,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sample {
    /// Things.
    Plain,
    /// Microseconds, which are told as seconds.
    Microseconds,
}

impl Text {
    /// Begins a family: a name, which gets our prefix, what it is, and what it means.
    pub(crate) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
    }

    /// A number of the family.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line("", labels, None, &value.to_string());
    }

    /// A histogram of the family.
    pub(crate) fn histogram<const BOUNDS: usize>(
        &mut self,
        labels: &[(&str, &str)],
        histogram: &Histogram<BOUNDS>,
        sample: Sample,
    ) {
        for (bound, count) in histogram.cumulative() {
            self.line("_bucket", labels, Some(&sample.written(bound)), &count.to_string());
        }
        let count = histogram.count().to_string();
        self.line("_bucket", labels, Some("+Inf"), &count);
        self.line("_sum", labels, None, &sample.written(histogram.sum()));
        self.line("_count", labels, None, &count);
    }

    /// All of it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: &str) {
        let text = &mut self.text;
        let _ = write!(text, "{PREFIX}{}{suffix}", self.family);
        let mut separator = '{';
        for (name, label) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(text, "{separator}{name}=\"");
            for character in label.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

impl Sample {
    fn written(self, value: u64) -> String {
        match self {
            Self::Plain => value.to_string(),
            Self::Microseconds => {
                let text = format!("{}.{:06}", value / 1_000_000, value % 1_000_000);
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            }
        }
    }
}

const PREFIX: &str = "tollgate_gateway_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_prometheus_reads() {
        let mut text = Text::default();
        text.family("a_total", "counter", "A.");
        text.sample(&[], 1);
        text.sample(&[("x", "y\"\\\nz"), ("b", "")], 2);
        text.family("b_seconds", "histogram", "B.");
        let mut histogram = Histogram::new(&[250, 1_000_000]);
        for value in [100, 250, 2_500_000] {
            histogram.measure(value);
        }
        text.histogram(&[("r", "s")], &histogram, Sample::Microseconds);
        let expected = r#"# HELP tollgate_gateway_a_total A.
# TYPE tollgate_gateway_a_total counter
tollgate_gateway_a_total 1
tollgate_gateway_a_total{x="y\"\\\nz",b=""} 2
# HELP tollgate_gateway_b_seconds B.
# TYPE tollgate_gateway_b_seconds histogram
tollgate_gateway_b_seconds_bucket{r="s",le="0.00025"} 2
tollgate_gateway_b_seconds_bucket{r="s",le="1"} 2
tollgate_gateway_b_seconds_bucket{r="s",le="+Inf"} 3
tollgate_gateway_b_seconds_sum{r="s"} 2.50035
tollgate_gateway_b_seconds_count{r="s"} 3
"#;
        assert_eq!(String::from_utf8(text.into_bytes()).unwrap(), expected);
    }
}
