//! A request head in memory, and as text.

use std::fmt;
use std::net::IpAddr;

use tollgate_shared::request::Request;

/// A request head.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: Vec<u8>,
    /// The request target.
    pub target: Vec<u8>,
    /// What `Host` says.
    pub authority: Vec<u8>,
    /// The field lines; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The other end of the connection.
    pub peer: Option<IpAddr>,
    /// What has been read of the body.
    pub body: Vec<u8>,
}

impl Head {
    /// A head without fields.
    pub fn new(method: &str, target: &str, authority: &str) -> Self {
        Self {
            method: method.into(),
            target: target.into(),
            authority: authority.into(),
            headers: Vec::new(),
            peer: Some(IpAddr::from([192, 0, 2, 1])),
            body: Vec::new(),
        }
    }

    /// With one more field line.
    #[must_use]
    pub fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The values of the lines called `name`.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().filter(move |(own, _)| own == name).map(|(_, value)| &value[..])
    }
}

/// As text, with escapes for what is none.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, target) = (self.method.escape_ascii(), self.target.escape_ascii());
        write!(f, "`{method} {target}` to `{}` from {:?}", self.authority.escape_ascii(), self.peer)?;
        self.headers.iter().try_for_each(|(name, value)| write!(f, ", `{name}: {}`", value.escape_ascii()))
    }
}

impl Request for Head {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(&self.method);
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(&self.target);
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(&self.authority);
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        self.lines(name).for_each(read);
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    fn body(&self) -> &[u8] {
        &self.body
    }
}
