//! What a vector runs on, seen from the runner: something that answers requests.

use anyhow::Result;

use crate::format::Step;

/// Answers the requests of vectors.
pub trait Adapter {
    /// Sends the request of `step` at its time, and returns the answer; of a step whose upstream hangs, what is known once the
    /// upstream was asked, while the request stays open until the adapter is dropped. `vector` is the vector's position among those
    /// that the adapter was started with.
    fn ask(&mut self, vector: usize, step: &Step) -> impl Future<Output = Result<Answer>>;
}

/// What came back, as a client would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Whether it is the upstream's.
    pub passed: bool,
    /// The header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The header fields that the upstream got, names in lower case; none if it was not asked.
    pub seen: Vec<(String, String)>,
}

impl Answer {
    /// The values of a field, joined like lines of one field are.
    pub fn header(&self, name: &str) -> Option<String> {
        joined(&self.headers, name)
    }

    /// The same of what the upstream got.
    pub fn seen(&self, name: &str) -> Option<String> {
        joined(&self.seen, name)
    }
}

fn joined(fields: &[(String, String)], name: &str) -> Option<String> {
    let values: Vec<&str> =
        fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}
