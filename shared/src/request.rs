//! What the core reads of a request.
//!
//! The host lends its request through [`Request`]; nothing is copied that no route or key asks for. All values
//! are bytes: header fields need not be UTF-8, and a core that assumed so would fail on a client's whim.

use core::net::IpAddr;

/// A request head, as the host has it.
pub trait Request {
    /// The method, as sent. Methods are case-sensitive (RFC 9110 §9.1), and yet many upstreams read them in whatever case: so
    /// does the core, see [`is_method`].
    fn method(&self, read: &mut dyn FnMut(&[u8]));

    /// The request target in origin form, query included; absolute form is understood too.
    fn target(&self, read: &mut dyn FnMut(&[u8]));

    /// The host the request names (`:authority` or `Host`), port included if sent.
    fn authority(&self, read: &mut dyn FnMut(&[u8]));

    /// Calls `read` with the value of each field line called `name` (lower case), in the order received.
    ///
    /// Lines must not be joined: a client that repeats a field must not look like one that did not.
    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8]));

    /// The address at the other end of the connection, as far as the host knows it.
    fn peer(&self) -> Option<IpAddr>;

    /// The first [`MAX_BODY`] bytes of the body, as far as the host has read it. It has to where
    /// [`Policy::reads_body`](crate::policy::Policy::reads_body) says so, before it begins a decision.
    fn body(&self) -> &[u8] {
        &[]
    }
}

/// Most bytes of a body that are read: 64 KiB. What is behind them tells nobody apart.
pub const MAX_BODY: usize = 64 * 1024;

/// Whether a request with the method `sent` is one of `method`, which is in capitals: the same in whatever case, or `HEAD` where that
/// is `GET`, because servers answer the one with the handler of the other.
pub fn is_method(sent: &[u8], method: &str) -> bool {
    sent.eq_ignore_ascii_case(method.as_bytes()) || (method == "GET" && sent.eq_ignore_ascii_case(b"HEAD"))
}

/// Calls `read` with the value of each cookie called `name`, over all lines, in the order received.
pub(crate) fn cookie(request: &dyn Request, name: &str, read: &mut dyn FnMut(&[u8])) {
    request.header("cookie", &mut |line| {
        for pair in line.split(|b| *b == b';') {
            let value = pair.trim_ascii().strip_prefix(name.as_bytes());
            if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
                read(value);
            }
        }
    });
}
