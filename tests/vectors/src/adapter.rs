//! What a vector runs on, seen from the runner: something that answers requests.

use anyhow::Result;

use crate::format::Step;

/// Answers the requests of vectors.
pub trait Adapter {
    /// Sends the request of `step` at its time, and returns the answer. `vector` is the vector's position among those
    /// that the adapter was started with.
    fn ask(&mut self, vector: usize, step: &Step) -> impl Future<Output = Result<Answer>>;
}

/// What came back, as a client would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status; 200 for a request that was let through.
    pub status: u16,
    /// The header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The values of a field, joined like lines of one field are.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}
